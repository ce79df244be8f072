//! Tests of the connection-string parser. The documented strings stand as they are documented.

use super::*;

fn no_env(_: &str) -> Option<String> {
    None
}

fn parse(uri: &str) -> Result<ClusterUri> {
    ClusterUri::parse(ClusterLabel::Cluster0, &SecretString::from(uri.to_owned()), &no_env)
}

fn oidc(properties: &str) -> Result<ClusterUri> {
    parse(&format!(
        "mongodb://h1:27017,h2:27018/?authMechanism=MONGODB-OIDC&authMechanismProperties={properties}"
    ))
}

fn spec(uri: Result<ClusterUri>) -> OidcSpec {
    uri.unwrap().oidc.unwrap()
}

fn refusal(uri: Result<ClusterUri>) -> String {
    let error = uri.unwrap_err();
    assert_eq!(error.kind(), Kind::UriInvalid, "{error:?}");
    assert!(error.detail().starts_with("cluster0: "), "{error}");
    error.detail().to_owned()
}

#[test]
fn the_documented_azure_string_goes_to_imds() {
    let uri = oidc("ENVIRONMENT:azure,TOKEN_RESOURCE:api://11111111-2222").unwrap();
    let spec = uri.oidc.clone().unwrap();
    assert_eq!(spec.plugin, "azure-imds");
    assert_eq!(spec.audience.as_deref(), Some("api://11111111-2222"));
    assert_eq!(spec.flow, Flow::Machine);
    assert_eq!(spec.principal, None);
    assert_eq!(spec.extra, [("ENVIRONMENT".to_owned(), "azure".to_owned())]);
    assert_eq!(spec.allowed_hosts, ["h1", "h2"]);
    assert_eq!(uri.hosts, ["h1:27017", "h2:27018"]);
    assert_eq!(
        uri.driver_uri.expose_secret(),
        "mongodb://h1:27017,h2:27018/?authMechanism=MONGODB-OIDC"
    );
    assert!(!uri.tls);
}

#[test]
fn an_audience_may_be_encoded_or_not_and_keeps_plus_percent_and_colons() {
    for (written, audience) in [
        ("mongodb%3A%2F%2Fhost", "mongodb://host"),
        ("mongodb://host", "mongodb://host"),
        ("a%25b%26c", "a%b&c"),
        ("a+b$c", "a+b$c"),
        ("api%3a//x:1:2", "api://x:1:2"),
    ] {
        let spec = spec(oidc(&format!("ENVIRONMENT:azure,TOKEN_RESOURCE:{written}")));
        assert_eq!(spec.audience.as_deref(), Some(audience), "{written}");
    }
    let whole = "ENVIRONMENT%3Aazure%2CTOKEN_RESOURCE%3Aapi%3A%2F%2Fx";
    assert_eq!(spec(oidc(whole)).audience.as_deref(), Some("api://x"));
}

#[test]
fn a_comma_in_an_audience_is_refused_raw_and_encoded() {
    for written in ["a,b", "a%2Cb"] {
        let message = refusal(oidc(&format!("ENVIRONMENT:azure,TOKEN_RESOURCE:{written}")));
        assert!(message.contains("comma"), "{message}");
    }
}

#[test]
fn a_user_name_is_the_managed_identity_and_does_not_reach_the_driver() {
    let uri = parse(
        "mongodb://client%2Did@h:1/admin?authSource=%24external&authMechanism=MONGODB-OIDC&tls=true\
         &AuthMechanismProperties=TOKEN_RESOURCE:x,ENVIRONMENT:azure&appName=a@b",
    )
    .unwrap();
    assert_eq!(
        uri.driver_uri.expose_secret(),
        "mongodb://h:1/admin?authSource=%24external&authMechanism=MONGODB-OIDC&tls=true&appName=a@b"
    );
    assert!(uri.tls);
    assert_eq!(uri.oidc.unwrap().principal.as_deref(), Some("client-id"));
}

#[test]
fn the_aks_form_names_each_missing_variable() {
    let message = refusal(oidc("ENVIRONMENT:azure"));
    for (name, keys) in AKS_SETTINGS {
        assert!(message.contains(name) && message.contains(keys[0]), "{message}");
    }
    let one_missing = |name: &str| (name != "AZURE_CLIENT_ID").then(|| "x".to_owned());
    let uri = SecretString::from(
        "mongodb://h/?authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:azure"
            .to_owned(),
    );
    let error = ClusterUri::parse(ClusterLabel::Cluster1, &uri, &one_missing).unwrap_err();
    assert!(error.detail().starts_with("cluster1: "), "{error}");
    assert!(error.detail().contains("variable AZURE_CLIENT_ID;"), "{error}");

    let all = ClusterUri::parse(ClusterLabel::Cluster1, &uri, &|_| Some("x".to_owned())).unwrap();
    let spec = all.oidc.unwrap();
    assert_eq!((spec.plugin.as_str(), spec.audience), ("azure-aks", None));
    assert_eq!(all.driver_uri.expose_secret(), "mongodb://h/?authMechanism=MONGODB-OIDC");
}

#[test]
fn the_aks_form_takes_its_settings_from_the_configuration_too() {
    let text = SecretString::from(
        "mongodb://h/?authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:azure"
            .to_owned(),
    );
    let plugin = |config: &serde_json::Value, env: &dyn Fn(&str) -> Option<String>| {
        let overrides = Overrides { aks: Some(config), ..Overrides::default() };
        let uri = ClusterUri::parse_with(ClusterLabel::Cluster0, &text, overrides, env)?;
        Ok::<_, Error>(uri.oidc.unwrap().plugin)
    };
    let mut config = serde_json::json!({ "tenantId": "t", "appClientId": "a", "clientId": "c",
        "federatedTokenFile": "/f" });
    assert_eq!(plugin(&config, &no_env).unwrap(), "azure-aks");
    // One here, the others there.
    let some = |name: &str| (name == "AZURE_TENANT_ID").then(|| "x".to_owned());
    config["tenantId"] = "".into();
    let error = plugin(&config, &no_env).unwrap_err();
    assert!(error.detail().contains("variable AZURE_TENANT_ID;"), "{error}");
    assert_eq!(plugin(&config, &some).unwrap(), "azure-aks");
    // A scope says what the application's id would say.
    config["appClientId"] = serde_json::Value::Null;
    let error = plugin(&config, &some).unwrap_err();
    assert!(error.detail().contains("variable AZURE_APP_CLIENT_ID;"), "{error}");
    config["scope"] = "api://a/.default".into();
    assert_eq!(plugin(&config, &some).unwrap(), "azure-aks");
}

#[test]
fn every_environment_has_its_plugin() {
    for (properties, plugin) in [
        ("ENVIRONMENT:azure,TOKEN_RESOURCE:x", "azure-imds"),
        ("ENVIRONMENT:gcp,TOKEN_RESOURCE:x", "gcp"),
        ("ENVIRONMENT:k8s", "token-file"),
        ("ENVIRONMENT:plugin:acme", "acme"),
    ] {
        assert_eq!(spec(oidc(properties)).plugin, plugin);
    }
    let person = spec(parse("mongodb://ann%40corp@h/?authMechanism=MONGODB-OIDC"));
    assert_eq!((person.plugin.as_str(), person.flow), ("workforce-oidc", Flow::Human));
    assert_eq!(person.principal.as_deref(), Some("ann@corp"));
    let uri = parse("mongodb://ann%40corp@h/?authMechanism=MONGODB-OIDC").unwrap();
    let kept = uri.driver_uri.expose_secret();
    assert_eq!(kept, "mongodb://ann%40corp@h/?authMechanism=MONGODB-OIDC");
}

#[test]
fn the_configuration_may_name_plugin_audience_and_hosts() {
    let uri = |text: &str, overrides| {
        let text = SecretString::from(text.to_owned());
        ClusterUri::parse_with(ClusterLabel::Cluster0, &text, overrides, &no_env)
    };
    let hosts = ["*.other.example".to_owned()];
    let overrides = Overrides {
        plugin: Some("acme"),
        audience: Some("a,b"),
        allowed_hosts: Some(&hosts),
        ..Overrides::default()
    };
    for text in [
        "mongodb://h/?authMechanism=MONGODB-OIDC",
        "mongodb://h/?authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:azure",
        "mongodb://h/?authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:x,TENANT:y",
    ] {
        let spec = uri(text, overrides).unwrap().oidc.unwrap();
        assert_eq!(spec.plugin, "acme");
        assert_eq!(spec.audience.as_deref(), Some("a,b"));
        assert_eq!(spec.allowed_hosts, hosts);
    }
    // An audience alone decides between the two forms of Azure.
    let overrides = Overrides { audience: Some("a,b"), ..Overrides::default() };
    let text = "mongodb://h/?authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:azure";
    let spec = uri(text, overrides).unwrap().oidc.unwrap();
    assert_eq!((spec.plugin.as_str(), spec.audience.as_deref()), ("azure-imds", Some("a,b")));
    // A string that asks for no tokens gets none.
    assert_eq!(uri("mongodb://h/", overrides).unwrap().oidc, None);
}

/// What is to happen to a string of the drivers' specification.
enum Outcome {
    /// A plugin, the audience and the user name.
    Plugin(&'static str, Option<&'static str>, Option<&'static str>),
    /// Refused with this word.
    Refused(&'static str),
}

/// The specification's twenty strings about OIDC. Three come out otherwise than in a driver, which has
/// no AKS form and no plugins: the environment of the drivers' own tests does not exist here,
/// `azure` without an audience is a workload on AKS, and without an environment a person logs in.
#[test]
fn the_strings_of_the_drivers_specification_come_out_as_they_should() {
    use Outcome::{Plugin, Refused};
    const O: &str = "authMechanism=MONGODB-OIDC";
    const P: &str = "authMechanismProperties";
    let table = [
        ("", format!("{O}&{P}=ENVIRONMENT:test"), Refused("ENVIRONMENT:test is unknown")),
        (
            "",
            format!("{O}&authSource=$external&{P}=ENVIRONMENT:test"),
            Refused("ENVIRONMENT:test is unknown"),
        ),
        ("user:pass@", format!("{O}&{P}=ENVIRONMENT:test"), Refused("no password")),
        ("principal@", format!("{O}&{P}=ENVIRONMENT:test"), Refused("unknown")),
        ("", format!("{O}&{P}=ENVIRONMENT:invalid"), Refused("unknown")),
        ("", O.to_owned(), Plugin("workforce-oidc", None, None)),
        ("", format!("{O}&{P}=UnsupportedProperty:unexisted"), Refused("not a property")),
        (
            "",
            format!("{O}&{P}=ENVIRONMENT:azure,TOKEN_RESOURCE:foo"),
            Plugin("azure-imds", Some("foo"), None),
        ),
        (
            "user@",
            format!("{O}&{P}=ENVIRONMENT:azure,TOKEN_RESOURCE:foo"),
            Plugin("azure-imds", Some("foo"), Some("user")),
        ),
        (
            "",
            format!("{O}&{P}=ENVIRONMENT:azure,TOKEN_RESOURCE:mongodb%3A%2F%2Fcluster"),
            Plugin("azure-imds", Some("mongodb://cluster"), None),
        ),
        (
            "",
            format!("{O}&{P}=ENVIRONMENT:azure,TOKEN_RESOURCE:mongodb://cluster"),
            Plugin("azure-imds", Some("mongodb://cluster"), None),
        ),
        (
            "",
            format!("{O}&{P}=ENVIRONMENT:azure,TOKEN_RESOURCE:ab%25cd%3Ae%26f"),
            Plugin("azure-imds", Some("ab%cd:e&f"), None),
        ),
        (
            "",
            format!("{O}&{P}=ENVIRONMENT:azure,TOKEN_RESOURCE:a$b"),
            Plugin("azure-imds", Some("a$b"), None),
        ),
        (
            "user:pass@",
            format!("{O}&{P}=ENVIRONMENT:azure,TOKEN_RESOURCE:foo"),
            Refused("no password"),
        ),
        ("", format!("{O}&{P}=ENVIRONMENT:azure"), Refused("AZURE_TENANT_ID")),
        (
            "",
            format!("{O}&{P}=ENVIRONMENT:gcp,TOKEN_RESOURCE:foo"),
            Plugin("gcp", Some("foo"), None),
        ),
        (
            "user:pass@",
            format!("{O}&{P}=ENVIRONMENT:gcp,TOKEN_RESOURCE:foo"),
            Refused("no password"),
        ),
        ("", format!("{O}&{P}=ENVIRONMENT:gcp"), Refused("needs TOKEN_RESOURCE")),
        ("", format!("{O}&{P}=ENVIRONMENT:k8s"), Plugin("token-file", None, None)),
        ("user:pass@", format!("{O}&{P}=ENVIRONMENT:k8s"), Refused("no password")),
    ];
    for (user, options, outcome) in table {
        let uri = format!("mongodb://{user}localhost/?{options}");
        match (parse(&uri), outcome) {
            (Ok(parsed), Plugin(plugin, audience, principal)) => {
                let spec = parsed.oidc.unwrap();
                assert_eq!(spec.plugin, plugin, "{uri}");
                assert_eq!(spec.audience.as_deref(), audience, "{uri}");
                assert_eq!(spec.principal.as_deref(), principal, "{uri}");
                let driver = parsed.driver_uri.expose_secret();
                assert!(!driver.contains("authMechanismProperties"), "{driver}");
                assert!(!driver.contains("user"), "{driver}");
            }
            (Err(error), Refused(word)) => assert!(error.detail().contains(word), "{uri}: {error}"),
            (Ok(_), Refused(word)) => panic!("{uri} is accepted, not refused with {word}"),
            (Err(error), Plugin(..)) => panic!("{uri}: {error}"),
        }
    }
}

#[test]
fn a_third_partys_plugin_gets_every_property() {
    let spec = spec(parse(
        "mongodb://me@h/?authMechanism=MONGODB-OIDC&authMechanismProperties=\
         ENVIRONMENT:plugin:acme-sts,TOKEN_RESOURCE:db,TENANT:t:1",
    ));
    assert_eq!(spec.plugin, "acme-sts");
    assert_eq!(spec.audience.as_deref(), Some("db"));
    assert_eq!(spec.principal.as_deref(), Some("me"));
    assert_eq!(
        spec.extra,
        [
            ("ENVIRONMENT".to_owned(), "plugin:acme-sts".to_owned()),
            ("TENANT".to_owned(), "t:1".to_owned())
        ]
    );
    assert!(refusal(oidc("ENVIRONMENT:plugin:")).contains("plugin:<name>"));
    assert!(refusal(oidc("ENVIRONMENT:plugin:../x")).contains("plugin:<name>"));
}

#[test]
fn contradictions_are_refused_with_what_is_wrong() {
    for (properties, word) in [
        ("ENVIRONMENT:AZURE,TOKEN_RESOURCE:x", "ENVIRONMENT:AZURE is unknown"),
        ("environment:azure,TOKEN_RESOURCE:x", "environment is not a property"),
        ("ENVIRONMENT:azure,TOKEN_RESOURCE:", "TOKEN_RESOURCE is empty"),
        ("ENVIRONMENT:gcp", "needs TOKEN_RESOURCE"),
        ("ENVIRONMENT:k8s,TOKEN_RESOURCE:x", "TOKEN_RESOURCE needs ENVIRONMENT"),
        ("TOKEN_RESOURCE:x", "TOKEN_RESOURCE needs ENVIRONMENT"),
        ("ENVIRONMENT:azure,TOKEN_RESOURCE:x,FOO:y", "FOO is not a property"),
        ("ENVIRONMENT:azure,ENVIRONMENT:gcp", "given twice"),
        ("ENVIRONMENT:azure,ALLOWED_HOSTS:x", "ALLOWED_HOSTS cannot"),
        ("ENVIRONMENT", "not NAME:value"),
        ("", "not NAME:value"),
    ] {
        let message = refusal(oidc(properties));
        assert!(message.contains(word), "{properties}: {message}");
    }
    for (uri, word) in [
        ("mongodb://h/?authMechanism=mongodb-oidc", "has to be written"),
        ("mongodb://h/?authMechanism=MONGODB-OIDC&authsource=admin", "$external"),
        ("mongodb://h/?authMechanism=MONGODB-OIDC&AUTHMECHANISM=MONGODB-OIDC", "more than once"),
        ("mongodb://h:0/", "host 1 of 1"),
        ("mongodb://h,,i/", "host 2 of 3"),
        ("mongodb://", "host 1 of 1"),
        ("http://h/", "mongodb://"),
        ("h:27017", "mongodb://"),
        ("mongodb://h/?tls", "key=value"),
    ] {
        let message = refusal(parse(uri));
        assert!(message.contains(word), "{uri}: {message}");
    }
}

#[test]
fn other_strings_reach_the_driver_byte_for_byte() {
    for uri in [
        "mongodb://user:p%40ss@h1:1,[::1]:2/db?replicaSet=rs&tls=true",
        "mongodb+srv://cluster.example.net/?appName=x",
        "mongodb://h",
        "mongodb://%2Ftmp%2Fmongodb-27017.sock/",
        "mongodb://h/?authMechanism=SCRAM-SHA-256",
    ] {
        let parsed = parse(uri).unwrap();
        assert_eq!(parsed.driver_uri.expose_secret(), uri);
        assert_eq!(parsed.oidc, None);
    }
    assert!(parse("mongodb+srv://cluster.example.net/").unwrap().tls);
    assert!(!parse("mongodb+srv://cluster.example.net/?tls=false").unwrap().tls);
    assert!(parse("mongodb://h/?ssl=true").unwrap().tls);
}

#[test]
fn no_form_shows_a_password() {
    const SECRET: &str = "hunter2";
    for uri in [
        "mongodb://user:hunter2@h:1/?tls=true&tlsCertificateKeyFilePassword=hunter2",
        "mongodb://user:hunter2@h:1/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:hunter2",
        "mongodb://user:x@hunter2@h:1/",
        "mongodb://user:hunter2@h:bad/",
        "mongodb://user:x/hunter2@h:1/",
        "mongodb://user:x?hunter2@h:1/",
        "mongodb://user:x?hunter2@h:1/?tls=true",
        "mongodb://user:hunter2@h:1/?authMechanism=MONGODB-OIDC",
        "mongodb//user:hunter2@h:1/",
        "mongodb://user:?hunter2=hunter2@h",
        "mongodb://user:123?hunter2=hunter2@h",
    ] {
        let shown = match parse(uri) {
            Ok(uri) => format!("{} {uri:?}", uri.redacted),
            Err(error) => format!("{error:?}"),
        };
        assert!(!shown.contains(SECRET), "{uri} shows {shown}");
    }
    assert_eq!(
        parse("mongodb://user:pw@h:1/db?tls=true").unwrap().redacted,
        "mongodb://user:[redacted]@h:1/db?tls=true"
    );
}
