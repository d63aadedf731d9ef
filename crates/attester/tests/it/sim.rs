//! The stand-in is like a TPM.

use std::io;

use casemate_attester::{
    Attester, Exchange, GuestMeasurements, Tpm, TpmAttester, TpmError, Transport as _, guest_provision, quote_bundle,
    sim::SoftTpm,
};
use casemate_evidence::{
    instance::{NODE_PCRS, guest_pcr},
    tpm::{Attest, Public},
};
use proptest::prelude::*;

use crate::{
    swtpm::State,
    tools::{Quote, checkquote},
};

const MEASUREMENTS: GuestMeasurements<'_> =
    GuestMeasurements { kernel: [1; 32], initrd: [2; 32], command_line: "quiet", root_hash: [3; 32] };

#[test]
fn tpm2_checkquote_accepts_the_stand_ins_quote() {
    let mut tpm = SoftTpm::new(&[1; 32]);
    tpm.pcr_extend(14, [7; 32]).unwrap();
    let bundle = quote_bundle(&mut tpm, &[9; 32], &NODE_PCRS).unwrap();
    let quote = Quote { ak_public: &bundle.ak_public, attest: &bundle.attest, signature: &bundle.signature };
    assert!(checkquote(&quote, &[9; 32], &bundle.pcrs));
    assert!(!checkquote(&quote, &[8; 32], &bundle.pcrs), "another nonce");
}

#[test]
fn the_same_commands_have_the_same_effect_on_both() {
    let state = State::new();
    let swtpm = state.start();
    let mut real = swtpm.connect();
    let mut soft = SoftTpm::new(&[1; 32]);
    // As a sandbox driver hands it to the launcher.
    let mut transact = |command: &[u8]| soft.transact(command);
    let transact: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>> = &mut transact;
    let mut commands = Tpm::new(Exchange(transact));
    for tpm in [&mut real as &mut dyn Provision, &mut commands] {
        tpm.provision();
    }
    let all: Vec<u32> = (0..16).collect();
    assert_eq!(commands.pcr_read(&all).unwrap(), real.pcr_read(&all).unwrap());

    let (mut real, mut soft) = (TpmAttester::new(real).unwrap(), TpmAttester::new(Tpm::new(soft)).unwrap());
    let shape = |attester: &mut dyn Attester| {
        let bundle = quote_bundle(attester, &[5; 32], &guest_pcr::QUOTED).unwrap();
        let attest = Attest::parse(&bundle.attest).unwrap();
        (attest.body, attest.extra_data, attest.qualified_signer.len(), bundle.pcrs, bundle.attest.len())
    };
    assert_eq!(shape(&mut real), shape(&mut soft));
}

/// The stand-in computes names as the specification says; a real TPM's own shows that this reading is right.
#[test]
fn qualified_names_are_those_of_a_primary_key_in_the_owner_hierarchy() {
    use sha2::{Digest as _, Sha256};
    let state = State::new();
    let swtpm = state.start();
    let mut real = TpmAttester::new(swtpm.connect()).unwrap();
    let mut soft = SoftTpm::new(&[1; 32]);
    for attester in [&mut real as &mut dyn Attester, &mut soft] {
        let name = Public::parse(attester.public()).unwrap().name();
        let (attest, _) = attester.quote(&[], &[0]).unwrap();
        let digest = Sha256::new().chain_update(0x4000_0001u32.to_be_bytes()).chain_update(name).finalize();
        assert_eq!(Attest::parse(&attest).unwrap().qualified_signer, [&[0, 0x0b][..], &digest].concat());
    }
}

#[test]
fn a_seed_is_a_key() {
    assert_eq!(SoftTpm::new(&[1; 32]).public(), SoftTpm::new(&[1; 32]).public());
    assert_ne!(SoftTpm::new(&[1; 32]).public(), SoftTpm::new(&[2; 32]).public());
}

#[test]
fn refuses_what_it_cannot_do_by_the_name_of_the_command() {
    let mut tpm = Tpm::new(SoftTpm::new(&[1; 32]));
    assert!(matches!(tpm.create_ek(), Err(TpmError::Refused { command: "TPM2_CreatePrimary", .. })));
    assert!(matches!(tpm.read_ek_certificate(), Err(TpmError::Refused { command: "TPM2_NV_ReadPublic", .. })));
    assert!(matches!(SoftTpm::new(&[1; 32]).pcr_extend(24, [0; 32]), Err(TpmError::NoSuchPcr { pcr: 24 })));
}

trait Provision {
    fn provision(&mut self);
}

impl<T: casemate_attester::Transport> Provision for Tpm<T> {
    fn provision(&mut self) {
        self.startup_clear().unwrap();
        guest_provision(self, &MEASUREMENTS).unwrap();
        self.flush_all().unwrap();
        self.shutdown().unwrap();
    }
}

proptest! {
    #[test]
    fn no_command_makes_it_panic(
        code in prop_oneof![Just(0x131u32), Just(0x145), Just(0x158), Just(0x165), Just(0x17a), Just(0x17e), Just(0x182), 0u32..],
        tag in prop_oneof![Just(0x8001u16), Just(0x8002), 0u16..],
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut command = [&tag.to_be_bytes()[..], &[0; 4], &code.to_be_bytes(), &body].concat();
        let size = u32::try_from(command.len()).unwrap();
        command[2..6].copy_from_slice(&size.to_be_bytes());
        let response = SoftTpm::new(&[1; 32]).transact(&command).unwrap();
        prop_assert!(response.len() >= 10);
        let _ = SoftTpm::new(&[1; 32]).transact(&body).unwrap();
    }
}
