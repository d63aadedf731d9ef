//! A TPM that answers nonsense, and ways that lead to no TPM.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use casemate_attester::{AccessError, Device, Exchange, Key, Tpm, TpmError, Transport, UnixSocket, open};
use proptest::prelude::*;

fn answering(response: Vec<u8>) -> Tpm<impl Transport> {
    Tpm::new(Exchange(move |_: &[u8]| -> io::Result<Vec<u8>> { Ok(response.clone()) }))
}

/// Every operation against a TPM that always answers the same.
fn try_all(response: &[u8]) -> Vec<TpmError> {
    let mut tpm = answering(response.to_vec());
    let key = Key { handle: 0x8000_0000, public: Vec::new(), name: Vec::new() };
    let errors = [
        tpm.startup_clear().err(),
        tpm.shutdown().err(),
        tpm.pcr_extend(1, [0; 32]).err(),
        tpm.pcr_read(&[1, 2]).err(),
        tpm.create_ak().err(),
        tpm.create_ek().err(),
        tpm.quote(&key, &[1; 32], &[1]).err(),
        tpm.flush(key.handle).err(),
        tpm.flush_all().err(),
        tpm.read_ek_certificate().err(),
        tpm.activate_credential(&key, &key, &[1], &[1]).err(),
    ];
    errors.into_iter().flatten().collect()
}

fn with_header(tag: u16, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(10 + body.len()).unwrap();
    [&tag.to_be_bytes()[..], &size.to_be_bytes(), &[0; 4], body].concat()
}

#[test]
fn errors_name_the_command_and_the_response_code() {
    let mut tpm = answering(vec![0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x01]);
    assert_eq!(
        tpm.pcr_extend(4, [0; 32]).unwrap_err().to_string(),
        "the TPM refused TPM2_PCR_Extend with response code 0x101 (TPM_RC_FAILURE: the TPM is in failure mode)"
    );
    let error = answering(with_header(0x8002, &[0, 0, 0, 9])).pcr_extend(4, [0; 32]).unwrap_err();
    assert_eq!(error.to_string(), "response of the TPM to TPM2_PCR_Extend is malformed");
    let mut lost = Tpm::new(Exchange(|_: &[u8]| -> io::Result<Vec<u8>> { Err(io::ErrorKind::BrokenPipe.into()) }));
    assert_eq!(lost.shutdown().unwrap_err().to_string(), "send TPM2_Shutdown to the TPM");
}

#[test]
fn a_command_that_the_tpm_wants_again_is_sent_again() {
    let mut refusals = vec![0x922u32, 0x90a, 0x908];
    let mut sent = 0;
    let busy = |_: &[u8]| -> io::Result<Vec<u8>> {
        sent += 1;
        let code = refusals.pop().unwrap_or_default();
        Ok([&[0x80, 1, 0, 0, 0, 10][..], &code.to_be_bytes()].concat())
    };
    Tpm::new(Exchange(busy)).shutdown().unwrap();
    assert_eq!(sent, 4);
}

#[test]
fn refuses_responses_of_another_length_than_they_state() {
    for response in [vec![], vec![0x80], with_header(0x8001, &[])[..9].to_vec(), [with_header(0x8001, &[]), vec![0]].concat()] {
        assert_eq!(try_all(&response).len(), 11, "{response:?}");
    }
    assert!(!try_all(&with_header(0x8001, &[0; 5000])).is_empty());
}

#[test]
fn a_socket_with_an_impossible_size_is_refused_before_anything_is_allocated() {
    for size in [u32::MAX, 4097, 9] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[&[0x80, 1][..], &size.to_be_bytes(), &[0; 4]].concat()).unwrap();
        let error = UnixSocket::from_stream(ours).unwrap().transact(&[1, 2, 3]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut sent = [0; 3];
        theirs.read_exact(&mut sent).unwrap();
        assert_eq!(sent, [1, 2, 3]);
    }
}

#[test]
fn a_socket_that_closes_in_the_middle_of_a_response_is_an_error() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(&with_header(0x8001, &[1, 2, 3])[..11]).unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    let error = UnixSocket::from_stream(ours).unwrap().transact(&[0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn access_strings_say_what_is_wrong_with_them() {
    let message = |access: &str| open(access).err().unwrap().to_string();
    assert_eq!(message("/dev/tpm0"), "TPM access \"/dev/tpm0\" is neither \"device:PATH\" nor \"unix:PATH\"");
    assert_eq!(message("tcp:1"), "TPM access \"tcp:1\" is neither \"device:PATH\" nor \"unix:PATH\"");
    assert_eq!(message("unix:/nowhere/sock"), "open TPM /nowhere/sock");
    assert!(matches!(open("device:/dev/null/x"), Err(AccessError::Open { .. })));
}

#[test]
fn a_regular_file_is_no_device() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(Device::open(file.path()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert!(Device::open(Path::new("/dev/null")).is_ok());
}

proptest! {
    #[test]
    fn no_response_makes_it_panic_or_run_on(
        tag in prop_oneof![Just(0x8001u16), Just(0x8002)],
        body in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..120),
    ) {
        let _ = try_all(&with_header(tag, &body));
        let _ = try_all(&body);
    }
}
