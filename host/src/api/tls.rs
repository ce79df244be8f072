//! TLS of the listener. The files are read again when they change, so that a renewed certificate
//! needs no restart.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, Kind, Result};

/// Certificate, key and perhaps the authorities of clients.
pub struct Tls {
    /// PEM file with certificate and key.
    certificate: PathBuf,
    /// PEM file with the authorities of clients.
    client_ca: Option<PathBuf>,
    /// What was read, and how the files looked then.
    current: Mutex<(Arc<ServerConfig>, Vec<Look>)>,
}

/// Length and time of a file.
type Look = Option<(u64, SystemTime)>;

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// `ConfigInvalid` when they hold no certificate with its key.
    pub fn load(certificate: &Path, client_ca: Option<&Path>) -> Result<Self> {
        let looks = looks(certificate, client_ca);
        let config = read(certificate, client_ca)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            client_ca: client_ca.map(Path::to_owned),
            current: Mutex::new((config, looks)),
        })
    }

    /// What the next connection is accepted with. Files that changed are read again; when they
    /// cannot be used, the old ones stay.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = looks(&self.certificate, self.client_ca.as_deref());
        if looks != current.1 {
            match read(&self.certificate, self.client_ca.as_deref()) {
                Ok(config) => {
                    tracing::info!("the certificate of the API was read again");
                    current.0 = config;
                }
                Err(error) => {
                    tracing::warn!(error = %error.full(), "the old certificate of the API stays");
                }
            }
            current.1 = looks;
        }
        TlsAcceptor::from(Arc::clone(&current.0))
    }
}

/// How the files look now.
fn looks(certificate: &Path, client_ca: Option<&Path>) -> Vec<Look> {
    let look = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    };
    std::iter::once(certificate).chain(client_ca).map(look).collect()
}

/// Reads the files.
fn read(certificate: &Path, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>> {
    let bad = |path: &Path, what: &str| {
        Error::new(Kind::ConfigInvalid, format!("{} {what}", path.display()))
    };
    let text = fs::read(certificate)
        .map_err(|error| bad(certificate, "cannot be read").caused_by(error))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| bad(certificate, "is no PEM"))?;
    if chain.is_empty() {
        return Err(bad(certificate, "holds no certificate"));
    }
    // The cause would describe the key.
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| bad(certificate, "holds no private key, or an encrypted one"))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(certificate, "cannot be used").caused_by(error))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let text =
                fs::read(path).map_err(|error| bad(path, "cannot be read").caused_by(error))?;
            for authority in CertificateDer::pem_slice_iter(&text) {
                let authority = authority.map_err(|_| bad(path, "is no PEM"))?;
                roots
                    .add(authority)
                    .map_err(|error| bad(path, "holds no authority").caused_by(error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| bad(path, "holds no authority").caused_by(error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| bad(certificate, "holds a key of another certificate").caused_by(error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
