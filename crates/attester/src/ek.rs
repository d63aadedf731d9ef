//! The endorsement key: who a TPM is, by its maker's word; used at enrolment only.

use casemate_evidence::tpm::{HashAlg, wire::Writer};

use crate::{
    Key, Tpm, TpmError, Transport,
    command::{Code, Command},
    template::ek_template,
    tpm::{ALG_NULL, MAX_STRUCTURE, check_length, read_ticket},
};

/// NV index of the RSA-2048 endorsement key's certificate ("TCG EK Credential Profile", section 2.2.1.4).
pub const EK_CERTIFICATE_NV_INDEX: u32 = 0x01c0_0002;

impl<T: Transport> Tpm<T> {
    /// The RSA-2048 endorsement key. Making it takes a real TPM some seconds.
    pub fn create_ek(&mut self) -> Result<Key, TpmError> {
        self.create_primary(RH_ENDORSEMENT, &ek_template())
    }

    /// The endorsement key's certificate, DER, as the maker left it in the TPM.
    pub fn read_ek_certificate(&mut self) -> Result<Vec<u8>, TpmError> {
        let index = EK_CERTIFICATE_NV_INDEX;
        let size = match self.nv_size(index) {
            Ok(size) => size,
            Err(TpmError::Refused { code, .. }) if code.base() == RC_HANDLE => return Err(TpmError::NoEkCertificate { index }),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::with_capacity(size.into());
        while let Some(left @ 1..) = usize::from(size).checked_sub(bytes.len()) {
            let part = u16::try_from(left.min(NV_PART)).expect("a part is small");
            let offset = u16::try_from(bytes.len()).expect("below size, a u16");
            bytes.extend(self.nv_read(index, offset, part)?);
        }
        Ok(cut_to_der(bytes))
    }

    /// Proves that `ak` lives in the TPM of `ek`: opens a credential that was made for both.
    ///
    /// `blob` and `encrypted_secret` are the contents of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, without their sizes.
    pub fn activate_credential(&mut self, ak: &Key, ek: &Key, blob: &[u8], encrypted_secret: &[u8]) -> Result<Vec<u8>, TpmError> {
        check_length(Code::ACTIVATE_CREDENTIAL, "credential", blob, MAX_ID_OBJECT)?;
        check_length(Code::ACTIVATE_CREDENTIAL, "encrypted secret", encrypted_secret, MAX_ENCRYPTED_SECRET)?;
        let session = self.start_policy_session()?;
        let result = self.policy_secret_endorsement(session).and_then(|()| {
            let command = Command::new(Code::ACTIVATE_CREDENTIAL)
                .handle_with_empty_password(ak.handle)
                .handle_with_session(ek.handle, session)
                .parameters(|out| out.sized(blob).sized(encrypted_secret));
            self.run(command, |reader| Ok(reader.sized("credential", MAX_DIGEST)?.to_vec()))
        });
        // Success ends the session by itself, failure does not. If the flush fails too, the first failure is the one to tell.
        if result.is_err() {
            let _ = self.flush(session);
        }
        result
    }

    fn start_policy_session(&mut self) -> Result<u32, TpmError> {
        let command = Command::new(Code::START_AUTH_SESSION).handle(RH_NULL).handle(RH_NULL).parameters(|out| {
            // The caller's nonce only matters to HMACs, and no HMAC is used.
            out.sized(&[0; 16]).u16(0).u8(SE_POLICY).u16(ALG_NULL).u16(HashAlg::Sha256.id())
        });
        let (handle, ()) = command.run(self.transport())?.read_with_handle(|reader| {
            reader.sized("nonce", MAX_DIGEST)?;
            Ok(())
        })?;
        Ok(handle)
    }

    /// What the endorsement key's policy asks for.
    fn policy_secret_endorsement(&mut self, session: u32) -> Result<(), TpmError> {
        let command = Command::new(Code::POLICY_SECRET)
            .handle_with_empty_password(RH_ENDORSEMENT)
            .handle(session)
            // No nonce, no cpHash, no policyRef, no expiration.
            .parameters(|out| out.u16(0).u16(0).u16(0).u32(0));
        self.run(command, |reader| {
            reader.sized("timeout", MAX_STRUCTURE)?;
            read_ticket(reader)
        })
    }

    fn nv_size(&mut self, index: u32) -> Result<u16, TpmError> {
        self.run(Command::new(Code::NV_READ_PUBLIC).handle(index), |reader| {
            let mut public = casemate_evidence::tpm::wire::Reader::new(reader.sized("NV public area", MAX_STRUCTURE)?);
            reader.sized("NV name", MAX_STRUCTURE)?;
            public.take("NV index, hash, attributes", 4 + 2 + 4)?;
            public.sized("NV policy", MAX_DIGEST)?;
            public.u16("NV size")
        })
    }

    /// Authorised by the index itself: reading the certificate needs no owner.
    fn nv_read(&mut self, index: u32, offset: u16, size: u16) -> Result<Vec<u8>, TpmError> {
        let parameters = |out: Writer| out.u16(size).u16(offset);
        let command = Command::new(Code::NV_READ).handle_with_empty_password(index).handle(index).parameters(parameters);
        let bytes = self.run(command, |reader| Ok(reader.sized("NV data", MAX_STRUCTURE)?.to_vec()))?;
        if bytes.len() != usize::from(size) {
            return Err(TpmError::Unexpected { command: Code::NV_READ.1, detail: "it has another length than was asked for" });
        }
        Ok(bytes)
    }
}

/// Some makers reserve more room than the certificate needs: what follows the outermost DER SEQUENCE is dropped.
fn cut_to_der(mut bytes: Vec<u8>) -> Vec<u8> {
    if let [0x30, 0x82, high, low, ..] = bytes[..] {
        bytes.truncate(4 + usize::from(u16::from_be_bytes([high, low])));
    }
    bytes
}

/// TPM_RH_ENDORSEMENT.
const RH_ENDORSEMENT: u32 = 0x4000_000b;
/// TPM_RH_NULL.
const RH_NULL: u32 = 0x4000_0007;
/// TPM_SE_POLICY.
const SE_POLICY: u8 = 1;
/// TPM_RC_HANDLE.
const RC_HANDLE: u32 = 0x08b;
/// TPM_PT_NV_BUFFER_MAX is at least this on every TPM of a PC.
const NV_PART: usize = 512;
/// SHA-512.
const MAX_DIGEST: usize = 64;
/// HMAC and encrypted credential, each sized.
const MAX_ID_OBJECT: usize = 2 * (2 + MAX_DIGEST);
/// RSA-4096.
const MAX_ENCRYPTED_SECRET: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_after_the_certificate_is_dropped() {
        assert_eq!(cut_to_der(vec![0x30, 0x82, 0, 2, 1, 2, 0xff, 0xff]), [0x30, 0x82, 0, 2, 1, 2]);
        assert_eq!(cut_to_der(vec![0x30, 0x82, 0xff, 0xff, 1]), [0x30, 0x82, 0xff, 0xff, 1]);
        assert_eq!(cut_to_der(vec![]), Vec::<u8>::new());
    }
}
