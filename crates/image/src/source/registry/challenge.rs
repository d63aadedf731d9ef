//! What a registry wants to know of who asks (`WWW-Authenticate`), and the tokens of its token server.

use reqwest::Url;
use serde::Deserialize;

/// How a registry wants to be asked.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::source) enum Challenge {
    /// With name and password.
    Basic,
    /// With a token of the server at `realm`.
    Bearer { realm: String, service: Option<String> },
}

/// The first challenge that we can answer.
pub(in crate::source) fn parse(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    let mut rest = rest.trim_start();
    while let Some((key, value)) = rest.split_once('=') {
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_once(',').unwrap_or((value, "")),
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            // The scope that we want is known; a registry must not talk us into a wider one.
            _ => {}
        }
        rest = after.trim_start_matches([',', ' ']);
    }
    Some(Challenge::Bearer { realm: realm?, service })
}

/// Where to get a token to pull from `repository`; none where the realm is nothing to send credentials to.
pub(super) fn token_url(
    realm: &str,
    service: Option<&str>,
    repository: &str,
    is_plain_allowed: impl Fn(&str) -> bool,
) -> Option<Url> {
    let mut url = Url::parse(realm).ok()?;
    let is_secure = url.scheme() == "https" || (url.scheme() == "http" && url.host_str().is_some_and(is_plain_allowed));
    if !is_secure || !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    if let Some(service) = service {
        url.query_pairs_mut().append_pair("service", service);
    }
    url.query_pairs_mut().append_pair("scope", &format!("repository:{repository}:pull"));
    Some(url)
}

/// The token in a token server's answer.
pub(super) fn token(answer: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let token = answer.token.or(answer.access_token)?;
    let is_header = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    is_header.then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_registries_send() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
        };
        let docker =
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(parse(docker), bearer("https://auth.docker.io/token", Some("registry.docker.io")));
        assert_eq!(parse("bearer service=x , realm=https://r"), bearer("https://r", Some("x ")));
        assert_eq!(parse(r#"BASIC realm="x""#), Some(Challenge::Basic));
        for bad in ["", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"unterminated", "Digest realm=\"x\"", "Negotiate"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn credentials_go_over_tls_and_ask_for_no_more_than_a_pull() {
        let nowhere = |_: &str| false;
        let url = token_url("https://a.example/t?x=1", Some("s&scope=evil"), "a/b", nowhere).unwrap();
        let scopes: Vec<_> = url.query_pairs().filter(|(key, _)| key == "scope").map(|(_, value)| value.into_owned()).collect();
        assert_eq!(scopes, ["repository:a/b:pull"]);
        for bad in ["http://a.example/t", "file:///etc/passwd", "https://u:p@a.example/t", "t"] {
            assert!(token_url(bad, None, "a", nowhere).is_none(), "{bad}");
        }
        assert!(token_url("http://127.0.0.1/t", None, "a", |host| host == "127.0.0.1").is_some());
    }

    #[test]
    fn a_token_is_one_word() {
        assert_eq!(token(br#"{"token":"abc"}"#).as_deref(), Some("abc"));
        assert_eq!(token(br#"{"access_token":"abc","expires_in":3}"#).as_deref(), Some("abc"));
        for bad in [r#"{}"#, r#"{"token":""}"#, r#"{"token":"a\r\nX: y"}"#, r#"{"token":1}"#, "nonsense"] {
            assert_eq!(token(bad.as_bytes()), None, "{bad}");
        }
    }
}
