//! How registries are reached: mirrors in front of them, and whose credentials are used.

use std::{collections::BTreeMap, path::PathBuf};

use reqwest::Url;

use crate::ImageError;

/// What an operator says about registries. The default: no mirrors, the user's own Docker configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// By registry (`docker.io`, `registry.example:5000`), in the order in which they are asked before the registry itself.
    ///
    /// Mirrors are asked for content by digest only. What a tag means is the registry's word: no digest would show a lie.
    pub mirrors: BTreeMap<String, Vec<Mirror>>,
    /// A file in the form of Docker's `config.json`; absent: `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    pub auth_file: Option<PathBuf>,
}

/// Another server with the content of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror(Url);

impl Mirror {
    /// `https://HOST[:PORT]`, or `http://` on this host, where repositories have the names that they have in the registry.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let fault =
            |problem: &str| ImageError::Source { text: text.chars().take(300).collect(), problem: format!("a mirror {problem}") };
        let url = Url::parse(text).map_err(|_| fault("must be a URL"))?;
        let is_plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !is_plain || !url.username().is_empty() || url.password().is_some() {
            return Err(fault("must have no path, no query and no credentials in its URL"));
        }
        let host = url.host_str().ok_or_else(|| fault("must name a host"))?;
        match url.scheme() {
            "https" => Ok(Self(url)),
            "http" if is_this_host(host) => Ok(Self(url)),
            _ => Err(fault("must be reached by https, or by http on this host")),
        }
    }

    /// Whether it must be reached by TLS.
    pub(super) fn scheme(&self) -> Scheme {
        if self.0.scheme() == "http" { Scheme::Http } else { Scheme::Https }
    }

    /// `HOST` or `HOST:PORT`.
    pub(super) fn host(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

/// How a server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// Of a registry, whose name says nothing about it.
    pub(super) fn of_registry(host: &str) -> Self {
        if is_this_host(host) { Self::Http } else { Self::Https }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Where plain HTTP is allowed.
pub(super) fn is_this_host(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "localhost" | "127.0.0.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_host_only() {
        assert!(is_this_host("localhost:5000") && is_this_host("127.0.0.1"));
        for other in ["localhost.example", "127.0.0.1.example:80", "10.0.0.1", "example:443"] {
            assert!(!is_this_host(other));
        }
    }

    #[test]
    fn a_mirror_is_a_host_and_nothing_else() {
        assert_eq!(Mirror::parse("https://m.example").unwrap().host(), "m.example");
        assert_eq!(Mirror::parse("https://m.example:5000/").unwrap().host(), "m.example:5000");
        assert_eq!(Mirror::parse("http://127.0.0.1:5000").unwrap().host(), "127.0.0.1:5000");
        assert_eq!(Mirror::parse("http://127.0.0.1:5000").unwrap().scheme(), Scheme::Http);
        assert_eq!(Mirror::parse("https://localhost:5000").unwrap().scheme(), Scheme::Https);
        let bad =
            ["", "m.example", "http://m.example", "ftp://m", "https://u:p@m", "https://m/v2/x", "https://m/?x=1", "file:///etc"];
        for bad in bad {
            assert_eq!(Mirror::parse(bad).unwrap_err().check(), "image.malformed", "{bad}");
        }
    }
}
