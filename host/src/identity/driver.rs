//! The edge to the MongoDB driver: its token callback, and its events about the cluster's hosts.

use std::sync::Arc;

use futures_util::FutureExt;
use mongodb::{
    bson::doc,
    error::ErrorKind,
    event::{EventHandler, sdam::SdamEvent},
    options::{
        ClientOptions, Tls,
        oidc::{Callback, CallbackContext, IdpServerResponse},
    },
};
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::{TokenService, hosts};
use crate::{
    error::{Error, Kind, Result},
    model::token::IdpInfo,
};

/// What the driver keeps in the place of a refresh token. The real one stays in the service.
const REFRESH_HANDLE: &str = "kept by the token service";

/// The driver's callback for a cluster. Make one per client: the driver keeps its token cache
/// inside, and clones share it.
///
/// A failure reaches the caller of an operation as the driver's custom error; the
/// [`Error`] in it comes out with `get_custom::<syncline::error::Error>()`.
pub fn callback(service: Arc<TokenService>) -> Callback {
    let is_person = service.is_person();
    let answer = move |context| {
        let service = Arc::clone(&service);
        async move { answer(&service, context).await }.boxed()
    };
    if is_person { Callback::human(answer) } else { Callback::machine(answer) }
}

/// Answers the driver.
async fn answer(
    service: &TokenService,
    context: CallbackContext,
) -> mongodb::error::Result<IdpServerResponse> {
    let deadline = context.timeout.map(Instant::from_std);
    let token = match context.idp_info {
        None => service.token(deadline).await,
        Some(idp) => {
            let idp = IdpInfo {
                issuer: idp.issuer,
                client_id: idp.client_id,
                request_scopes: idp.request_scopes.unwrap_or_default(),
            };
            service.token_of_person(deadline, idp).await
        }
    };
    let token = token.map_err(mongodb::error::Error::custom)?;
    let refresh = service.is_person().then(|| REFRESH_HANDLE.to_owned());
    Ok(IdpServerResponse::builder()
        .access_token(token.secret().expose_secret().to_owned())
        .refresh_token(refresh)
        .build())
}

/// Puts the callback into options parsed from [`super::ClusterUri::driver_uri`], and watches the
/// hosts that the cluster announces. It takes the place of the options' topology event handler;
/// one that is there already still gets every event.
///
/// # Errors
/// `UriInvalid` when the options have no credential or turn TLS off where it is needed.
pub fn install(service: &Arc<TokenService>, options: &mut ClientOptions) -> Result<()> {
    let encrypted = matches!(options.tls, Some(Tls::Enabled(_)));
    if service.needs_tls() && !encrypted {
        return Err(Error::new(
            Kind::UriInvalid,
            format!("{}: tokens need TLS; add tls=true", service.label().name()),
        ));
    }
    let Some(credential) = options.credential.as_mut() else {
        return Err(Error::new(
            Kind::UriInvalid,
            format!("{}: the options hold no credential", service.label().name()),
        ));
    };
    // The driver looks at the host of a person's connection itself, by names as it writes them.
    credential.mechanism_properties = service
        .is_person()
        .then(|| doc! { "ALLOWED_HOSTS": hosts::with_loopback(service.allowed_hosts()) });
    credential.oidc_callback = callback(Arc::clone(service));
    options.sdam_event_handler =
        Some(watch(Arc::clone(service), options.sdam_event_handler.take()));
    service.start_renewal();
    Ok(())
}

/// A handler that tells the service which hosts a cluster announces, and that a new connection's
/// token was refused.
fn watch(
    service: Arc<TokenService>,
    next: Option<EventHandler<SdamEvent>>,
) -> EventHandler<SdamEvent> {
    EventHandler::callback(move |event: SdamEvent| {
        if let SdamEvent::TopologyDescriptionChanged(change) = &event {
            let hosts: Vec<String> =
                change.new_description.servers().keys().map(ToString::to_string).collect();
            service.observe_hosts(hosts.iter().map(String::as_str));
        }
        if let SdamEvent::ServerDescriptionChanged(change) = &event
            && let Some(error) = change.new_description.error()
            && matches!(error.kind.as_ref(), ErrorKind::Authentication { .. })
        {
            service.refused();
        }
        if let Some(EventHandler::Callback(next)) = &next {
            next(event);
        }
    })
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use mongodb::options::AuthMechanism;
    use secrecy::SecretString;

    use super::*;
    use crate::{
        identity::ClusterUri,
        model::{
            options::ClusterLabel,
            token::{Credential, TokenError, TokenRequest},
        },
        ports::TokenIssuer,
    };

    struct Never;

    #[async_trait]
    impl TokenIssuer for Never {
        fn name(&self) -> &str {
            "never"
        }

        async fn validate(&self) -> Result<(), TokenError> {
            Ok(())
        }

        async fn get_token(&self, _: TokenRequest) -> Result<Credential, TokenError> {
            Err(TokenError::Denied("never".to_owned()))
        }
    }

    async fn stage(front: &str, properties: &str) -> (Arc<TokenService>, ClientOptions) {
        let text = format!(
            "{front}authMechanism=MONGODB-OIDC&replicaSet=rs&authMechanismProperties={properties}"
        );
        let uri = ClusterUri::parse(ClusterLabel::Cluster0, &SecretString::from(text), &|_| None)
            .unwrap();
        let options = ClientOptions::parse(uri.driver_uri.expose_secret()).await.unwrap();
        (TokenService::new(&uri, Arc::new(Never)).unwrap(), options)
    }

    #[tokio::test]
    async fn the_driver_accepts_what_is_left_and_a_client_can_be_made() {
        for properties in ["ENVIRONMENT:azure,TOKEN_RESOURCE:x", "ENVIRONMENT:plugin:p"] {
            let (service, mut options) = stage("mongodb://id@127.0.0.1:1/?", properties).await;
            install(&service, &mut options).unwrap();
            let credential = options.credential.clone().unwrap();
            assert_eq!(credential.mechanism, Some(AuthMechanism::MongoDbOidc));
            assert_eq!(credential.mechanism_properties, None);
            assert_eq!(credential.username, None);
            assert!(options.sdam_event_handler.is_some());
            mongodb::Client::with_options(options).unwrap();
        }
    }

    #[tokio::test]
    async fn a_person_keeps_the_name_and_a_list_of_hosts() {
        let front = "mongodb://ann%40corp@localhost:1/?authMechanism=MONGODB-OIDC";
        let uri = ClusterUri::parse(ClusterLabel::Cluster0, &SecretString::from(front), &|_| None)
            .unwrap();
        let mut options = ClientOptions::parse(uri.driver_uri.expose_secret()).await.unwrap();
        let service = TokenService::new(&uri, Arc::new(Never)).unwrap();
        install(&service, &mut options).unwrap();
        let credential = options.credential.clone().unwrap();
        assert_eq!(credential.username.as_deref(), Some("ann@corp"));
        let hosts = doc! { "ALLOWED_HOSTS": ["localhost", "127.0.0.1", "::1"] };
        assert_eq!(credential.mechanism_properties, Some(hosts));
        mongodb::Client::with_options(options).unwrap();
    }

    #[tokio::test]
    async fn options_that_lost_tls_or_the_credential_are_refused() {
        const AZURE: &str = "ENVIRONMENT:azure,TOKEN_RESOURCE:x";
        let (service, mut options) = stage("mongodb://h.example/?tls=true&", AZURE).await;
        options.tls = Some(Tls::Disabled);
        let error = install(&service, &mut options).unwrap_err();
        assert_eq!(error.kind(), Kind::UriInvalid);
        assert!(error.detail().contains("tls=true"), "{error}");
        let (service, mut options) = stage("mongodb://localhost/?", AZURE).await;
        options.credential = None;
        assert!(install(&service, &mut options).is_err());
    }
}
