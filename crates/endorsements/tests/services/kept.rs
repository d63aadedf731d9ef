//! The cache, its floor, and questions that are asked by many at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use casemate_endorsements::{EndorsementError, FetchError, SnpEndorsements, SnpHints};
use casemate_evidence::snp::AttestationReport;

use crate::{
    server::{Answer, Service},
    vendors::{bytes, example, kds},
};

fn report() -> AttestationReport {
    AttestationReport::decode(&bytes(&example("snp")["evidence"]["report"])).unwrap()
}

/// AMD's service, until it is switched off.
fn switched() -> (Service, Arc<AtomicBool>) {
    let (good, is_on) = (kds(&example("snp")), Arc::new(AtomicBool::new(true)));
    let switch = Arc::clone(&is_on);
    let service =
        Service::start(move |asked, count| if is_on.load(Ordering::SeqCst) { good(asked, count) } else { Answer::status(500) });
    (service, switch)
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn what_is_fresh_enough_is_not_asked_for_again_also_by_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let (service, _) = switched();
    let first = service.keeping(dir.path(), HOUR).snp(&report(), &SnpHints::default()).await.unwrap();
    let second = service.keeping(dir.path(), HOUR).snp(&report(), &SnpHints::default()).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(service.asked().len(), 3);
    // Without a cache nothing is kept.
    let fetcher = service.fetcher();
    for _ in 0..2 {
        fetcher.snp(&report(), &SnpHints::default()).await.unwrap();
    }
    assert_eq!(service.asked().len(), 9);
}

/// Makes all copies older.
fn age(dir: &std::path::Path, seconds: u64) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mut kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        kept["asked_at"] = (kept["asked_at"].as_u64().unwrap() - seconds).into();
        std::fs::write(path, kept.to_string()).unwrap();
    }
}

#[tokio::test]
async fn nothing_older_than_the_floor_is_handed_out_even_if_the_service_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (service, switch) = switched();
    let fetcher = service.keeping(dir.path(), HOUR);
    let good = fetcher.snp(&report(), &SnpHints::default()).await.unwrap();
    switch.store(false, Ordering::SeqCst);
    let again: SnpEndorsements = fetcher.snp(&report(), &SnpHints::default()).await.unwrap();
    assert_eq!(good, again, "fresh, so that nobody needs the service");

    age(dir.path(), 3700);
    let error = fetcher.snp(&report(), &SnpHints::default()).await.unwrap_err();
    let EndorsementError::Fetch { source, .. } = error else { panic!("{error:?}") };
    let FetchError::Stale { age_s, floor_s: 3600, .. } = &*source else { panic!("{source:?}") };
    assert!(*age_s >= 3700);

    switch.store(true, Ordering::SeqCst);
    assert_eq!(fetcher.snp(&report(), &SnpHints::default()).await.unwrap(), good);
    switch.store(false, Ordering::SeqCst);
    assert!(fetcher.snp(&report(), &SnpHints::default()).await.is_ok(), "the old copies were replaced");
}

#[tokio::test]
async fn a_question_that_many_ask_at_once_is_sent_once() {
    let service = Service::start(kds(&example("snp")));
    let fetcher = service.fetcher();
    // All of them ask before the first can have an answer: they are polled in one go.
    let askers = (0..20).map(|_| async { fetcher.snp(&report(), &SnpHints::default()).await.unwrap() });
    let found = futures::future::join_all(askers).await;
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(service.asked().len(), 3);
}

#[tokio::test]
async fn who_gives_up_does_not_take_the_answer_from_the_others() {
    let good = kds(&example("snp"));
    let service = Service::start(move |asked, count| {
        std::thread::sleep(Duration::from_millis(100));
        good(asked, count)
    });
    let fetcher = service.fetcher();
    let (first, second) = (fetcher.clone(), fetcher.clone());
    let leader = tokio::spawn(async move { first.snp(&report(), &SnpHints::default()).await.map(drop) });
    let follower = tokio::spawn(async move { second.snp(&report(), &SnpHints::default()).await });
    while service.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    leader.abort();
    assert!(follower.await.unwrap().is_ok());
}
