//! Sessions against a guest at the other end of a pipe.

use casemate_api::guest::{Launch, Phase, Status};
use tokio::io::DuplexStream;

use super::*;

struct Owner {
    outgoing: mpsc::Sender<to_guest::Message>,
    control: mpsc::Receiver<from_guest::Message>,
    records: mpsc::Receiver<Record>,
    durable: watch::Sender<u64>,
}

fn wires(durable: u64) -> (Wires, Owner) {
    let (outgoing_tx, outgoing) = mpsc::channel(4);
    let (control, control_rx) = mpsc::channel(4);
    let (records, records_rx) = mpsc::channel(4);
    let (durable_tx, durable) = watch::channel(durable);
    let owner = Owner { outgoing: outgoing_tx, control: control_rx, records: records_rx, durable: durable_tx };
    (Wires { outgoing, control, records, durable }, owner)
}

fn launch() -> Vec<u8> {
    let launch = Launch { instance: "i-1".into(), ..Launch::default() };
    ToGuest { message: Some(to_guest::Message::Launch(launch)) }.encode_to_vec()
}

/// The guest's side: reads the preamble, answers it after some noise, and hands over the two framed streams.
async fn accept(mut io: DuplexStream, noise: &[u8]) -> (Framing, Framing) {
    let mut hello = [0; 24];
    io.read_exact(&mut hello).await.unwrap();
    io.write_all(noise).await.unwrap();
    io.write_all(&hello).await.unwrap();
    let mut connection = Connection::new(io.compat(), Config::default(), Mode::Server);
    let (tx, mut rx) = mpsc::channel(2);
    tokio::spawn(async move {
        while let Some(Ok(stream)) = poll_fn(|cx| connection.poll_next_inbound(cx)).await {
            if tx.send(stream).await.is_err() {
                return;
            }
        }
    });
    let mut control = framed(rx.recv().await.unwrap());
    let first = ToGuest::decode(control.next().await.unwrap().unwrap()).unwrap();
    assert_eq!(first.encode_to_vec(), launch());
    say(&mut control, from_guest::Message::Status(Status { phase: Phase::Booted.into(), ..Status::default() })).await;
    let records = framed(rx.recv().await.unwrap());
    (control, records)
}

async fn say(control: &mut Framing, message: from_guest::Message) {
    control.send(Bytes::from(FromGuest { message: Some(message) }.encode_to_vec())).await.unwrap();
}

async fn records_from(records: &mut Framing) -> u64 {
    RecordsFrom::decode(records.next().await.unwrap().unwrap()).unwrap().next
}

#[tokio::test]
async fn carries_both_streams_and_acknowledges_what_is_durable() {
    let (host, guest) = tokio::io::duplex(1 << 16);
    let (wires, mut owner) = wires(7);
    let session = tokio::spawn(async move { session(host, [9; 16], &launch(), wires).await });
    let (mut control, mut records) = accept(guest, b"half a frame CASEMATE").await;

    assert!(matches!(owner.control.recv().await, Some(from_guest::Message::Status(s)) if s.phase() == Phase::Booted));
    assert_eq!(records_from(&mut records).await, 7);
    records.send(Bytes::from(Record { seq: 7, sealed: vec![1; 300_000] }.encode_to_vec())).await.unwrap();
    assert_eq!(owner.records.recv().await.unwrap().sealed.len(), 300_000);
    owner.durable.send_replace(8);
    assert_eq!(records_from(&mut records).await, 8);

    let stop = casemate_api::guest::Stop { grace_ms: 5 };
    owner.outgoing.send(to_guest::Message::Stop(stop)).await.unwrap();
    let message = ToGuest::decode(control.next().await.unwrap().unwrap()).unwrap().message.unwrap();
    assert_eq!(message, to_guest::Message::Stop(stop));

    drop(owner);
    assert!(session.await.unwrap().is_err());
}

#[tokio::test]
async fn ends_when_the_guest_breaks_the_protocol() {
    let (host, guest) = tokio::io::duplex(1 << 16);
    let (wires, _owner) = wires(0);
    let session = tokio::spawn(async move { session(host, [9; 16], &launch(), wires).await });
    let (mut control, _records) = accept(guest, b"").await;
    control.send(Bytes::from_static(b"\xff\xff\xff")).await.unwrap();
    assert!(matches!(session.await.unwrap(), Err(ChannelError::Decode("control", _))));
}

#[tokio::test]
async fn ends_when_the_guest_announces_too_large_a_frame() {
    let (host, guest) = tokio::io::duplex(1 << 16);
    let (wires, _owner) = wires(0);
    let session = tokio::spawn(async move { session(host, [9; 16], &launch(), wires).await });
    let (control, _records) = accept(guest, b"").await;
    let mut raw = control.into_inner();
    raw.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    raw.flush().await.unwrap();
    assert!(matches!(session.await.unwrap(), Err(ChannelError::Io("receive", _))));
}

#[tokio::test(start_paused = true)]
async fn gives_up_on_a_guest_that_does_not_answer() {
    let (host, _guest) = tokio::io::duplex(64);
    let (wires, _owner) = wires(0);
    let ended = session(host, [9; 16], &launch(), wires).await;
    assert!(matches!(ended, Err(ChannelError::Timeout { what: "the preamble's echo", .. })));
}
