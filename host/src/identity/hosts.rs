//! Host names: their shape in a connection string, loopback, and who may see a token.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The host without its port and without brackets, in lower case.
pub(super) fn name_of(address: &str) -> String {
    let name = if let Some(literal) = address.strip_prefix('[') {
        literal.split_once(']').map_or(literal, |(name, _)| name)
    } else if address.parse::<Ipv6Addr>().is_ok() {
        address
    } else {
        address.split_once(':').map_or(address, |(name, _)| name)
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Whether the text is a host, a host with a port, or the path of a socket.
pub(super) fn is_well_formed(address: &str) -> bool {
    if address.ends_with(".sock") {
        return !address.contains(['@', '?', '/']);
    }
    let (name, port) = if let Some(literal) = address.strip_prefix('[') {
        let Some((name, rest)) = literal.split_once(']') else { return false };
        if name.parse::<Ipv6Addr>().is_err() {
            return false;
        }
        match (rest, rest.strip_prefix(':')) {
            ("", _) => (name, None),
            (_, Some(port)) => (name, Some(port)),
            (_, None) => return false,
        }
    } else {
        match address.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (address, None),
        }
    };
    let name_fits = !name.is_empty()
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':'));
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number > 0));
    name_fits && port_fits
}

/// Whether traffic to the host stays on this machine.
pub(super) fn is_loopback(address: &str) -> bool {
    if address.ends_with(".sock") {
        return true;
    }
    let name = name_of(address);
    name == "localhost"
        || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || name.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// Who may see a token when the operator did not say: the hosts of the connection string, and for
/// an SRV name everything in its parent domain, which is where the records may point.
pub(super) fn default_patterns(hosts: &[String], srv: bool) -> Vec<String> {
    let mut patterns: Vec<String> = Vec::new();
    for host in hosts {
        let name = name_of(host);
        let pattern = match name.split_once('.') {
            // With fewer than three labels the records may only point below the name itself.
            Some((_, parent)) if srv && parent.contains('.') => format!("*.{parent}"),
            _ if srv => format!("*.{name}"),
            _ => name,
        };
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
    }
    patterns
}

/// Whether a host is on the list: the same name, or below the domain of a `*.` pattern.
pub(super) fn is_allowed(address: &str, patterns: &[String]) -> bool {
    let name = name_of(address);
    patterns.iter().any(|pattern| {
        let pattern = pattern.to_ascii_lowercase();
        match pattern.strip_prefix('*') {
            Some(suffix) => suffix.starts_with('.') && name.ends_with(suffix) && name != suffix,
            None => name_of(&pattern) == name || same_loopback(&pattern, &name),
        }
    })
}

/// The patterns, with every usual name of this machine once one of them is there.
pub(super) fn with_loopback(patterns: &[String]) -> Vec<String> {
    const USUAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
    let mut all = patterns.to_vec();
    if all.iter().any(|pattern| USUAL.contains(&pattern.as_str())) {
        let missing: Vec<&str> =
            USUAL.into_iter().filter(|name| !all.iter().any(|known| known == name)).collect();
        all.extend(missing.into_iter().map(str::to_owned));
    }
    all
}

/// `localhost`, `127.0.0.1` and `::1` are one host under three names.
fn same_loopback(one: &str, other: &str) -> bool {
    let usual = |text: &str| matches!(text, "localhost" | "127.0.0.1" | "::1");
    usual(one) && usual(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_loses_port_brackets_and_case() {
        assert_eq!(name_of("DB.Example:27017"), "db.example");
        assert_eq!(name_of("[::1]:27017"), "::1");
        assert_eq!(name_of("::1"), "::1");
        assert_eq!(name_of("db.example."), "db.example");
    }

    #[test]
    fn only_hosts_on_the_list_are_allowed() {
        let list = vec!["db1.corp.example".to_owned(), "*.mongo.example".to_owned()];
        assert!(is_allowed("DB1.corp.example:27017", &list));
        assert!(is_allowed("a.b.mongo.example:1", &list));
        assert!(!is_allowed("mongo.example", &list));
        assert!(!is_allowed("evilmongo.example", &list));
        assert!(!is_allowed("db1.corp.example.evil.example", &list));
        assert!(!is_allowed("db2.corp.example", &list));
        assert!(!is_allowed("anything", &[]));
    }

    #[test]
    fn the_usual_loopback_names_are_one_host_and_others_are_not() {
        let list = vec!["localhost".to_owned()];
        assert!(is_allowed("127.0.0.1:27017", &list));
        assert!(is_allowed("[::1]:27017", &list));
        assert!(!is_allowed("127.0.0.2:27017", &list));
        assert!(is_loopback("127.0.0.2:27017"));
        assert!(!is_loopback("localhost.evil.example"));
    }

    #[test]
    fn an_srv_name_allows_its_parent_domain() {
        let list = default_patterns(&["cluster.abc.mongodb.net".to_owned()], true);
        assert_eq!(list, ["*.abc.mongodb.net"]);
        assert!(is_allowed("shard-00.abc.mongodb.net:27017", &list));
        assert!(!is_allowed("shard-00.other.mongodb.net:27017", &list));
        assert_eq!(default_patterns(&["mongodb.net".to_owned()], true), ["*.mongodb.net"]);
    }
}
