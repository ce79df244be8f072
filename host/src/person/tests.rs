use std::time::Duration;

use tokio::time::timeout;

use super::{Browser, Reach, Redirect, Terminal};
use crate::{
    model::token::{DeviceCode, PersonError},
    ports::{Person, WayBack},
};

const TARGET: &str = "https://idp.example/authorize?state=s";

/// A person whose browser does nothing by itself, and where it would begin.
async fn attempt(browser: &str) -> (Box<dyn WayBack>, String) {
    let redirect: Redirect = "http://localhost:0/redirect".parse().unwrap();
    let person = Terminal::new(Reach { browser: browser.parse().unwrap(), redirect });
    let way_back = person.listen().await.unwrap();
    let address = way_back.address().to_owned();
    (way_back, address)
}

/// A client that follows nothing.
fn client() -> reqwest::Client {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

async fn status(request: reqwest::RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

#[test]
fn only_addresses_of_this_machine_are_redirect_uris() {
    for good in [
        "http://localhost:27097/redirect",
        "http://127.0.0.1:0/a/b",
        "http://[::1]:1/",
        "http://localhost",
    ] {
        assert!(good.parse::<Redirect>().is_ok(), "{good}");
    }
    assert_eq!(Redirect::default().to_string(), "http://localhost:27097/redirect");
    for bad in [
        "https://localhost:1/redirect",
        "http://10.0.0.1:1/redirect",
        "http://0.0.0.0:1/redirect",
        "http://user@localhost:1/",
        "http://localhost:1/?a",
        "http://localhost:1/#a",
        "nonsense",
    ] {
        assert!(bad.parse::<Redirect>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn names_of_other_machines_are_not_bound() {
    let redirect: Redirect = "http://0.0.0.0.nip.invalid:0/r".parse().unwrap();
    let person = Terminal::new(Reach { browser: Browser::Print, redirect });
    assert!(matches!(person.listen().await.err(), Some(PersonError::Unreached(_))));
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_and_no_browser_opens() {
    let (first, address) = attempt("print").await;
    let redirect: Redirect = address.parse().unwrap();
    let person = Terminal::new(Reach { browser: Browser::Print, redirect });
    let error = person.listen().await.err().unwrap();
    assert!(matches!(&error, PersonError::Unreached(text) if text.contains(&address)), "{error}");
    drop(first);
    assert!(person.listen().await.is_ok(), "dropping stops listening");
    let person = Terminal::new(Reach { browser: Browser::None, ..Reach::default() });
    assert!(person.listen().await.is_err());
}

#[tokio::test]
async fn the_browser_goes_and_comes_back() {
    let (way_back, address) = attempt("print").await;
    let http = client();
    let visits = async {
        let back = |query: &str| http.get(format!("{address}{query}"));
        // Strangers are turned away and do not end the login.
        assert_eq!(status(back("?code=x&state=wrong")).await, 403);
        assert_eq!(status(back("?code=x")).await, 403);
        assert_eq!(status(back("?error=access_denied&state=wrong")).await, 403);
        assert_eq!(status(http.put(&address)).await, 405);
        assert_eq!(status(http.post(&address).body("code=x&state=s3cret")).await, 405);
        let root = address.trim_end_matches("/redirect");
        for path in ["/", "/success/x", "/redirect/x", "/favicon.ico"] {
            assert_eq!(status(http.get(format!("{root}{path}"))).await, 404, "{path}");
        }
        let answer = back("?code=c0de&state=s3cret").send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 303);
        assert_eq!(answer.headers()["referrer-policy"], "no-referrer");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'"), "{policy}");
        let end = answer.headers()["location"].to_str().unwrap().to_owned();
        assert!(end.starts_with("/success/") && !end.contains("c0de"), "{end}");
        // The same code again is no harm, another one is refused.
        assert_eq!(status(back("?code=c0de&state=s3cret")).await, 303);
        assert_eq!(status(back("?code=other&state=s3cret")).await, 409);
        let answer = http.get(format!("{root}{end}")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        assert!(answer.text().await.unwrap().contains("close this page"));
    };
    let (parameters, ()) = tokio::join!(way_back.browse(TARGET, "s3cret"), visits);
    let expected =
        [("code".to_owned(), "c0de".to_owned()), ("state".to_owned(), "s3cret".to_owned())];
    assert_eq!(parameters.unwrap(), expected);
    assert!(http.get(&address).send().await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_form_and_an_error_of_the_provider_come_back_too() {
    let (way_back, address) = attempt("print").await;
    let http = client();
    let visit = async {
        let form = [
            ("error", "access_denied"),
            ("error_description", "no <script>alert(1)</script>"),
            ("state", "s"),
        ];
        let answer = http.post(&address).form(&form).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let text = answer.text().await.unwrap();
        assert!(text.contains("&lt;script&gt;") && !text.contains("<script"), "{text}");
    };
    let (parameters, ()) = tokio::join!(way_back.browse(TARGET, "s"), visit);
    assert!(parameters.unwrap().contains(&("error".to_owned(), "access_denied".to_owned())));
}

#[tokio::test]
async fn a_program_gets_our_own_address_and_is_sent_on() {
    let folder = tempfile::tempdir().unwrap();
    let (script, note) = (folder.path().join("browser"), folder.path().join("note"));
    std::fs::write(&script, format!("#!/bin/sh\necho \"$#:$1\" > {}\n", note.display())).unwrap();
    let (way_back, address) = attempt(&format!("sh {}", script.display())).await;
    let http = client();
    let visits = async {
        let opened = loop {
            match std::fs::read_to_string(&note) {
                Ok(text) if text.ends_with('\n') => break text,
                _ => tokio::task::yield_now().await,
            }
        };
        let opened = opened.trim().strip_prefix("1:").unwrap().to_owned();
        assert!(opened.starts_with(&format!("{address}/")), "{opened}");
        assert!(!opened.contains("idp.example"));
        let answer = http.get(&opened).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 307);
        assert_eq!(answer.headers()["location"], TARGET);
        let answer = http.get(format!("{address}?code=c&state=s")).send().await.unwrap();
        let end = answer.headers()["location"].to_str().unwrap().to_owned();
        let root = address.trim_end_matches("/redirect");
        assert_eq!(status(http.get(format!("{root}{end}"))).await, 200);
    };
    let (parameters, ()) = tokio::join!(way_back.browse(TARGET, "s"), visits);
    assert_eq!(parameters.unwrap().len(), 2);
}

#[tokio::test]
async fn a_browser_that_does_not_open_is_noticed() {
    for browser in ["false", "/nonexistent/browser"] {
        let (way_back, _) = attempt(browser).await;
        let error = way_back.browse(TARGET, "s").await.unwrap_err();
        assert!(matches!(error, PersonError::Unreached(_)), "{error}");
    }
    for url in ["http://idp.example/a", "javascript:alert(1)", "file:///etc/passwd", "x"] {
        let (way_back, _) = attempt("print").await;
        let error = way_back.browse(url, "s").await.unwrap_err();
        assert!(matches!(error, PersonError::Invalid(_)), "{url}");
    }
}

#[tokio::test]
async fn two_logins_take_turns() {
    let redirect: Redirect = "http://localhost:0/redirect".parse().unwrap();
    let person = Terminal::new(Reach { browser: Browser::Print, redirect });
    let first = person.listen().await.unwrap();
    assert!(timeout(Duration::from_millis(50), person.listen()).await.is_err());
    drop(first);
    assert!(person.listen().await.is_ok());
    let code = DeviceCode {
        user_code: "A".to_owned(),
        verification_uri: "https://idp.example".to_owned(),
        verification_uri_complete: None,
        expires_in: Duration::from_secs(60),
    };
    assert!(person.show(&code).is_ok());
}
