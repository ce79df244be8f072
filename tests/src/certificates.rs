//! An authority that exists for one test run, and certificates of it.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// An authority.
pub struct Authority {
    /// Its certificate with its key.
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// When no key can be had.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// Its certificate in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate with its key in PEM, for a server on loopback.
    ///
    /// # Errors
    /// When no key can be had.
    pub fn server(&self) -> Result<String> {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.issue(CertificateParams::new(names)?, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate with its key in PEM, for a client.
    ///
    /// # Errors
    /// When no key can be had.
    pub fn client(&self) -> Result<String> {
        let params = CertificateParams::new(vec!["client".to_owned()])?;
        self.issue(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Issues a certificate.
    fn issue(
        &self,
        mut params: CertificateParams,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<String> {
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
    }
}
