//! Services that are busy, broken or hostile.

use std::{sync::Arc, time::Duration};

use casemate_endorsements::{EndorsementError, FetchError, Fetcher, Limits, Settings, SnpHints};
use casemate_evidence::snp::AttestationReport;

use crate::{
    server::{Answer, Asked, QUICK, Service},
    vendors::{bytes, example, kds},
};

fn report() -> AttestationReport {
    AttestationReport::decode(&bytes(&example("snp")["evidence"]["report"])).unwrap()
}

/// AMD's service, but for the revocation list.
fn with_list(list: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static) -> Service {
    let good = kds(&example("snp"));
    Service::start(move |asked, count| if asked.path.ends_with("/crl") { list(asked, count) } else { good(asked, count) })
}

async fn refused(fetcher: &Fetcher) -> Arc<FetchError> {
    match fetcher.snp(&report(), &SnpHints::default()).await {
        Err(EndorsementError::Fetch { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

fn lists(service: &Service) -> usize {
    service.asked().iter().filter(|asked| asked.path.ends_with("/crl")).count()
}

#[tokio::test]
async fn a_busy_service_is_asked_again_after_the_time_that_it_names() {
    let good = kds(&example("snp"));
    let service = Service::start(move |asked, count| match count {
        0 => Answer::status(429).with("Retry-After", "0"),
        1 => Answer::status(503),
        _ => good(asked, count),
    });
    assert!(service.fetcher().snp(&report(), &SnpHints::default()).await.is_ok());
    assert_eq!(service.asked().len(), 5);
}

#[tokio::test]
async fn a_service_that_stays_busy_is_given_up_and_a_long_wait_is_not_waited() {
    let service = with_list(|_, _| Answer::status(429));
    assert!(matches!(&*refused(&service.fetcher()).await, FetchError::Status { status, .. } if status.as_u16() == 429));
    assert_eq!(lists(&service), 3, "as often as the limit says");

    let service = with_list(|_, _| Answer::status(429).with("Retry-After", "86400"));
    assert!(matches!(&*refused(&service.fetcher()).await, FetchError::Throttled { wait_s: 86400, .. }));
    assert_eq!(lists(&service), 1);
}

#[tokio::test]
async fn what_is_not_there_is_not_asked_for_again() {
    for status in [400, 403, 404, 410] {
        let service = with_list(move |_, _| Answer::status(status));
        assert!(matches!(&*refused(&service.fetcher()).await, FetchError::Status { .. }));
        assert_eq!(lists(&service), 1, "{status}");
    }
}

#[tokio::test]
async fn half_an_answer_is_none() {
    let list = bytes(&example("snp")["endorsements"]["crl"]);
    let service = with_list(move |_, _| Answer::Truncated { announced: list.len(), body: list[..list.len() / 2].to_vec() });
    assert!(matches!(&*refused(&service.fetcher()).await, FetchError::Request { .. }));
    assert_eq!(lists(&service), 3);
}

#[tokio::test]
async fn too_long_an_answer_is_refused_announced_or_not() {
    let service = with_list(|_, _| Answer::Truncated { announced: 1 << 30, body: vec![] });
    assert!(matches!(&*refused(&service.fetcher()).await, FetchError::TooLong { .. }));
    let service = with_list(|_, _| Answer::Endless);
    assert!(matches!(&*refused(&service.fetcher()).await, FetchError::TooLong { .. }));
    assert_eq!(lists(&service), 1);
}

#[tokio::test]
async fn something_else_than_what_was_asked_for_is_refused_and_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let service = with_list(|_, count| match count {
        1 => Answer::ok("<html>Please log in</html>"),
        _ => kds(&example("snp"))(&Asked { method: "GET".into(), path: "/vcek/v1/Genoa/crl".into(), body: vec![] }, 0),
    });
    let fetcher = service.keeping(dir.path(), Duration::from_secs(3600));
    assert!(matches!(&*refused(&fetcher).await, FetchError::Content { .. }));
    assert!(fetcher.snp(&report(), &SnpHints::default()).await.is_ok(), "the page was not kept");
}

#[tokio::test]
async fn redirects_are_followed_a_few_times_and_never_away_from_tls() {
    let list = bytes(&example("snp")["endorsements"]["crl"]);
    let good = kds(&example("snp"));
    let service = Service::start(move |asked, count| match asked.path.as_str() {
        "/vcek/v1/Genoa/crl" => Answer::status(302).with("Location", "/elsewhere"),
        "/elsewhere" => Answer::ok(list.clone()),
        _ => good(asked, count),
    });
    assert!(service.fetcher().snp(&report(), &SnpHints::default()).await.is_ok());

    let service = with_list(|_, _| Answer::status(302).with("Location", "/vcek/v1/Genoa/crl"));
    assert!(matches!(&*refused(&service.fetcher()).await, FetchError::Request { source, .. } if source.is_redirect()));
    assert!(lists(&service) <= 7, "{}", lists(&service));

    let service = with_list(|_, _| Answer::status(302).with("Location", "http://kds.example/crl"));
    assert!(matches!(&*refused(&service.fetcher()).await, FetchError::Request { source, .. } if source.is_redirect()));
    assert_eq!(lists(&service), 1);
}

#[tokio::test]
async fn a_service_that_says_nothing_is_given_up() {
    let service = with_list(|_, _| Answer::Hang);
    let limits = Limits { total: Duration::from_secs(2), ..QUICK };
    let fetcher = Fetcher::new(Settings { limits, ..service.settings() }).unwrap();
    assert!(matches!(&*refused(&fetcher).await, FetchError::Time { limit_s: 2, .. }));
    let limits = Limits { attempt: Duration::from_secs(1), attempts: 1, ..QUICK };
    let fetcher = Fetcher::new(Settings { limits, ..service.settings() }).unwrap();
    assert!(matches!(&*refused(&fetcher).await, FetchError::Request { source, .. } if source.is_timeout()));
}

#[tokio::test]
async fn a_signed_document_without_its_signers_is_refused() {
    let request = example("tdx");
    let quote = casemate_evidence::tdx::Quote::decode(&bytes(&request["evidence"]["quote"])).unwrap();
    for chain in [None, Some("nothing"), Some("%"), Some("-----BEGIN%20CERTIFICATE-----%0A")] {
        let service = Service::start(move |_, _| {
            let answer = Answer::ok(r#"{"tcbInfo":{},"signature":"ab"}"#);
            chain.map_or_else(
                || Answer::ok(r#"{"tcbInfo":{},"signature":"ab"}"#),
                |chain| answer.with("TCB-Info-Issuer-Chain", chain),
            )
        });
        let error = service.fetcher().tdx(&quote).await.unwrap_err();
        assert!(matches!(error, EndorsementError::Fetch { source, .. } if matches!(&*source, FetchError::Content { .. })));
    }
}
