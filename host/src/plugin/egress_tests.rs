//! The rules of the way out, and the real client against servers on loopback.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

use super::*;
use crate::model::plugin::{LimitOverrides, World};

#[test]
fn every_spelling_of_a_near_address_is_known() {
    let near = [
        "http://127.0.0.1",
        "http://2130706433",
        "http://0x7f.1",
        "http://0177.0.0.1",
        "http://[::1]",
        "http://[::ffff:127.0.0.1]",
        "http://[::ffff:a9fe:a9fe]",
        "http://[64:ff9b::169.254.169.254]",
        "http://[2002:a9fe:a9fe::]",
        "http://[64:ff9b:1::169.254.169.254]",
        "http://[::ffff:0:169.254.169.254]",
        "http://[2001:0:a9fe:a9fe::1]",
        "http://[fd00:ec2::254]",
        "http://[fe80::1]",
        "http://169.254.169.254",
        "http://10.1.2.3",
        "http://172.16.0.1",
        "http://192.168.0.1",
        "http://100.64.0.1",
        "http://0.0.0.0",
        "http://168.63.129.16",
        "http://LOCALHOST",
        "http://metadata.google.internal",
    ];
    for text in near {
        assert!(Origin::parse(text).unwrap().is_near(), "{text}");
    }
    for text in ["http://8.8.8.8", "http://example.com", "http://[2606:4700::1]"] {
        assert_eq!(Origin::parse(text).unwrap_err().kind(), Kind::ConfigInvalid, "{text}");
    }
}

#[test]
fn an_issuer_that_a_server_names_is_public() {
    for near in [
        "http://127.0.0.1:8080",
        "https://127.0.0.1",
        "https://localhost/realms/a",
        "https://10.0.0.5",
        "https://[64:ff9b:1::a9fe:a9fe]",
        "https://[::ffff:0:169.254.169.254]",
        "http://169.254.169.254",
        "https://metadata.google.internal",
        "http://idp.example",
        "https://user@idp.example",
        "nonsense",
    ] {
        assert_eq!(Origin::of_stranger(near), None, "{near}");
    }
    let origin = Origin::of_stranger("https://idp.example/realms/a").unwrap();
    assert_eq!(origin, Origin::parse("https://idp.example").unwrap());
}

#[test]
fn an_origin_has_nothing_behind_the_host() {
    for text in [
        "https://example.com/path",
        "https://example.com?q",
        "https://user@example.com",
        "https://user:secret@example.com",
        "ftp://example.com",
        "example.com",
        "https://*",
        "",
    ] {
        assert!(Origin::parse(text).is_err(), "{text}");
    }
}

#[test]
fn origins_are_compared_after_normalising() {
    let same = [
        ("https://Example.COM", "https://example.com:443/"),
        ("http://127.1:8080", "http://127.0.0.1:8080"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ];
    for (left, right) in same {
        assert_eq!(Origin::parse(left).unwrap(), Origin::parse(right).unwrap());
    }
    let different = [
        ("https://example.com", "https://example.com:8443"),
        ("https://example.com", "https://example.com."),
        ("http://localhost", "https://localhost"),
    ];
    for (left, right) in different {
        assert_ne!(Origin::parse(left).unwrap(), Origin::parse(right).unwrap());
    }
}

#[test]
fn a_granted_name_does_not_open_near_addresses() {
    let connect = |name, address: &str| may_connect(name, address.parse().unwrap());
    assert!(connect("login.example.com", "93.184.216.34"));
    for address in
        ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fd00:ec2::254"]
    {
        assert!(!connect("login.example.com", address), "{address}");
    }
    assert!(connect("localhost", "127.0.0.1"));
    assert!(connect("localhost", "::1"));
    assert!(!connect("localhost", "10.0.0.1"));
    assert!(connect("metadata.google.internal", "169.254.169.254"));
    assert!(!connect("metadata.google.internal", "127.0.0.1"));
}

#[test]
fn headers_of_the_connection_are_refused() {
    let pair = |name: &str| [(name.to_owned(), "x".to_owned())];
    for name in ["Host", "connection", "X-Forwarded-For", "Proxy-Authorization", "bad name"] {
        assert!(headers(&pair(name)).is_err(), "{name}");
    }
    assert!(headers(&pair("Metadata")).is_ok());
    assert!(headers(&[("a".to_owned(), "x\r\ny".to_owned())]).is_err());
}

/// A server that answers every connection with the same bytes, and counts them.
async fn server(answer: Vec<u8>) -> (u16, Arc<AtomicUsize>, JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match socket.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            // The client may hang up in the middle of a body that is too long.
            let _gone = socket.write_all(&answer).await;
        }
    });
    (port, connections, tasks)
}

/// A `GET`.
fn get(url: String) -> Outgoing {
    Outgoing {
        method: Method::GET,
        url,
        headers: Vec::new(),
        secret_headers: Vec::new(),
        body: Vec::new(),
        timeout: Duration::from_secs(5),
        max_response_bytes: 1000,
        also: None,
    }
}

/// A way out to these origins.
fn egress(origins: &[String]) -> Egress {
    let origins = origins.iter().map(|text| Origin::parse(text).unwrap()).collect();
    Egress::new(origins, &limits()).unwrap()
}

/// The default limits.
fn limits() -> Limits {
    Limits::new(World::IdentityProvider, &LimitOverrides::default())
}

#[tokio::test]
async fn an_answer_comes_back_without_cookies() {
    let answer = "HTTP/1.1 418 No\r\nSet-Cookie: a=b\r\nX-Kind: tea\r\nContent-Length: 2\r\n\r\nhi";
    let (port, _, _tasks) = server(answer.into()).await;
    for host in ["127.0.0.1", "localhost"] {
        let origin = format!("http://{host}:{port}");
        let answer =
            egress(std::slice::from_ref(&origin)).send(get(format!("{origin}/x"))).await.unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (418, b"hi".as_slice()));
        assert!(answer.headers.contains(&("x-kind".to_owned(), "tea".to_owned())));
        assert!(!answer.headers.iter().any(|(name, _)| name == "set-cookie"));
    }
}

#[tokio::test]
async fn what_is_not_granted_sees_no_connection() {
    let (port, connections, _tasks) = server(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).await;
    let egress = egress(&[format!("http://127.0.0.1:{}", port ^ 1), "https://example.com".into()]);
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://example.com@127.0.0.1:{port}/"),
        "http://example.com/".to_owned(),
        "https://example.com.:443/".to_owned(),
        "https://sub.example.com/".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let refusal = egress.send(get(url.clone())).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Denied(_)), "{url}: {refusal:?}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_granted_name_that_resolves_to_a_near_address_is_refused() {
    let (port, connections, _tasks) = server(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).await;
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254"] {
        let address: IpAddr = address.parse().unwrap();
        let lookup: Lookup =
            Arc::new(move |_| Box::pin(async move { Ok(vec![SocketAddr::new(address, 0)]) }));
        let origin = format!("https://login.example.com:{port}");
        let origins = vec![Origin::parse(&origin).unwrap()];
        let egress = Egress::resolving_by(origins, &limits(), lookup).unwrap();
        let refusal = egress.send(get(origin)).await.unwrap_err();
        let Refusal::Denied(text) = refusal else { panic!("{refusal:?}") };
        assert!(text.contains("login.example.com"), "{text}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let (elsewhere, connections, _tasks) = server(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).await;
    let answer = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{elsewhere}/\r\nContent-Length: 0\r\n\r\n"
    );
    let (port, _, _more) = server(answer.into_bytes()).await;
    let origins = [port, elsewhere].map(|port| format!("http://127.0.0.1:{port}"));
    let answer = egress(&origins).send(get(origins[0].clone())).await.unwrap();
    assert_eq!(answer.status, 302);
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_body_is_read_up_to_its_limit() {
    let body = |length: usize| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        [head.into_bytes(), vec![b'x'; length]].concat()
    };
    let (port, _, _tasks) = server(body(1000)).await;
    let origin = format!("http://127.0.0.1:{port}");
    assert_eq!(
        egress(std::slice::from_ref(&origin)).send(get(origin)).await.unwrap().body.len(),
        1000
    );
    let (port, _, _more) = server(body(1001)).await;
    let origin = format!("http://127.0.0.1:{port}");
    let refusal =
        egress(std::slice::from_ref(&origin)).send(get(origin.clone())).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Limit(_)), "{refusal:?}");
    let mut large = get(origin.clone());
    large.body = vec![0; limits().http_body_bytes + 1];
    let refusal = egress(&[origin]).send(large).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Limit(_)), "{refusal:?}");
}

#[tokio::test]
async fn silence_and_refusal_are_told_apart() {
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let origin = format!("http://127.0.0.1:{}", silent.local_addr().unwrap().port());
    let mut request = get(format!("{origin}/?secret=1"));
    request.timeout = Duration::from_millis(100);
    assert_eq!(
        egress(std::slice::from_ref(&origin)).send(request).await.unwrap_err(),
        Refusal::TimedOut
    );
    drop(silent);
    let request = get(format!("{origin}/?secret=1"));
    let refusal = egress(&[origin]).send(request).await.unwrap_err();
    let Refusal::Unavailable(text) = refusal else { panic!("{refusal:?}") };
    assert!(!text.contains("secret"), "{text}");
}

/// A server that begins a body in chunks and goes on with it.
async fn chunks(chunk: &'static [u8], is_endless: bool) -> (String, JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(socket.read(&mut [0; 4096]).await.unwrap() > 0);
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        socket.write_all(head).await.unwrap();
        while socket.write_all(chunk).await.is_ok() && is_endless {}
        // Nothing more, and no end.
        let mut rest = Vec::new();
        let _hung_up = socket.read_to_end(&mut rest).await;
    });
    (origin, tasks)
}

#[tokio::test]
async fn a_body_without_end_is_read_up_to_its_limit() {
    let (origin, _tasks) = chunks(b"5\r\nabcde\r\n", true).await;
    let refusal = egress(std::slice::from_ref(&origin)).send(get(origin)).await.unwrap_err();
    let Refusal::Limit(text) = refusal else { panic!("{refusal:?}") };
    assert!(text.contains("1000 bytes"), "{text}");
}

#[tokio::test]
async fn a_body_that_stops_in_the_middle_ends_with_the_time() {
    let (origin, _tasks) = chunks(b"5\r\nabcde\r\n", false).await;
    let mut request = get(origin.clone());
    request.timeout = Duration::from_millis(200);
    assert_eq!(egress(&[origin]).send(request).await.unwrap_err(), Refusal::TimedOut);
}

#[tokio::test]
async fn so_many_requests_are_under_way_at_once() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let overrides = LimitOverrides { http_at_once: Some(1), ..LimitOverrides::default() };
    let limits = Limits::new(World::IdentityProvider, &overrides);
    let egress = Egress::new(vec![Origin::parse(&origin).unwrap()], &limits).unwrap();
    let first = egress.send(get(origin.clone()));
    let others = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(socket.read(&mut [0; 4096]).await.unwrap() > 0);
        let mut second = get(origin.clone());
        second.timeout = Duration::from_millis(100);
        assert_eq!(egress.send(second).await.unwrap_err(), Refusal::TimedOut);
        let more = std::pin::pin!(listener.accept());
        assert!(futures_util::FutureExt::now_or_never(more).is_none(), "a second connection");
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
    };
    let (answer, ()) = tokio::join!(first, others);
    assert_eq!(answer.unwrap().body, b"hi");
}
