//! The commands that every user of a TPM here needs: start, PCRs, attestation key, quote.

use std::collections::BTreeMap;

use casemate_evidence::{
    Sha256Digest,
    tpm::{
        HashAlg, PcrSelection, Public, Signature, TpmDecodeError, decode_selections, encode_selections,
        wire::{Reader, Writer},
    },
};

use crate::{
    ResponseCode, TpmError, Transport,
    command::{Code, Command},
    template::ak_template,
};

/// A TPM behind a transport.
///
/// Made keys stay loaded until [`Tpm::flush`] or, at the kernel's `/dev/tpmrm0`, until the device is closed. A TPM has room for
/// three; behind any other transport a new owner clears away what a killed one left with [`Tpm::flush_all`].
#[derive(Debug)]
pub struct Tpm<T> {
    transport: T,
}

/// A loaded key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its handle, valid until it is flushed.
    pub handle: u32,
    /// TPMT_PUBLIC.
    pub public: Vec<u8>,
    /// Its name as the TPM gave it.
    pub name: Vec<u8>,
}

impl<T: Transport> Tpm<T> {
    /// A TPM behind `transport`; nothing is sent yet.
    pub fn new(transport: T) -> Self {
        Self { transport }
    }

    /// The transport back.
    pub fn into_transport(self) -> T {
        self.transport
    }

    /// TPM2_Startup(CLEAR). A TPM that was started already is left as it is.
    pub fn startup_clear(&mut self) -> Result<(), TpmError> {
        match Command::new(Code::STARTUP).parameters(|out| out.u16(SU_CLEAR)).run(&mut self.transport) {
            Ok(_) | Err(TpmError::Refused { code: ResponseCode::INITIALIZE, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// TPM2_Shutdown(CLEAR): power may go.
    pub fn shutdown(&mut self) -> Result<(), TpmError> {
        self.run(Command::new(Code::SHUTDOWN).parameters(|out| out.u16(SU_CLEAR)), |_| Ok(()))
    }

    /// Extends `digest` into `pcr` of the SHA-256 bank.
    pub fn pcr_extend(&mut self, pcr: u32, digest: Sha256Digest) -> Result<(), TpmError> {
        let command = Command::new(Code::PCR_EXTEND)
            .handle_with_empty_password(pcr)
            .parameters(|out| out.u32(1).u16(HashAlg::Sha256.id()).bytes(&digest));
        self.run(command, |_| Ok(()))
    }

    /// Reads PCRs of the SHA-256 bank, all of one moment.
    pub fn pcr_read(&mut self, pcrs: &[u32]) -> Result<BTreeMap<u32, Sha256Digest>, TpmError> {
        for _ in 0..PCR_READ_ATTEMPTS {
            if let Some(values) = self.pcr_read_once(PcrSelection::sha256(pcrs).pcrs)? {
                return Ok(values);
            }
        }
        Err(TpmError::PcrsChanging { attempts: PCR_READ_ATTEMPTS })
    }

    /// The attestation key, a primary key in the owner hierarchy: the same each time while the TPM keeps its seed.
    pub fn create_ak(&mut self) -> Result<Key, TpmError> {
        self.create_primary(RH_OWNER, &ak_template())
    }

    /// A quote over `pcrs` of the SHA-256 bank: TPMS_ATTEST and TPMT_SIGNATURE.
    pub fn quote(&mut self, key: &Key, qualifying: &[u8], pcrs: &[u32]) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        check_length(Code::QUOTE, "qualifying data", qualifying, MAX_QUALIFYING)?;
        let command = Command::new(Code::QUOTE).handle_with_empty_password(key.handle).parameters(|out| {
            // The scheme is the key's own.
            let out = out.sized(qualifying).u16(ALG_NULL);
            encode_selections(out, &[PcrSelection::sha256(pcrs)])
        });
        self.run(command, |reader| {
            let attest = reader.sized("attest", MAX_STRUCTURE)?.to_vec();
            let signature = reader.take("signature", reader.rest().len())?.to_vec();
            Signature::parse(&signature)?;
            Ok((attest, signature))
        })
    }

    /// Forgets a loaded key or session.
    pub fn flush(&mut self, handle: u32) -> Result<(), TpmError> {
        // TPM2_FlushContext takes its handle as a parameter.
        self.run(Command::new(Code::FLUSH_CONTEXT).parameters(|out| out.u32(handle)), |_| Ok(()))
    }

    /// Forgets every loaded key and session that this transport can see, also those of a user before.
    pub fn flush_all(&mut self) -> Result<(), TpmError> {
        for first in [HT_TRANSIENT, HT_LOADED_SESSION] {
            for handle in self.loaded(first)? {
                self.flush(handle)?;
            }
        }
        Ok(())
    }

    pub(crate) fn create_primary(&mut self, hierarchy: u32, template: &Public) -> Result<Key, TpmError> {
        let command = Command::new(Code::CREATE_PRIMARY).handle_with_empty_password(hierarchy).parameters(|out| {
            // TPM2B_SENSITIVE_CREATE with neither password nor data, template, no outside info, no creation PCRs.
            out.sized(&[0; 4]).sized(&template.encode()).u16(0).u32(0)
        });
        let (handle, (public, name)) = command.run(&mut self.transport)?.read_with_handle(|reader| {
            let public = reader.sized("public area", MAX_STRUCTURE)?.to_vec();
            reader.sized("creation data", MAX_STRUCTURE)?;
            reader.sized("creation hash", MAX_STRUCTURE)?;
            read_ticket(reader)?;
            Ok((public, reader.sized("name", MAX_STRUCTURE)?.to_vec()))
        })?;
        let key = Key { handle, public, name };
        match key.check(template) {
            Ok(()) => Ok(key),
            Err(error) => {
                self.flush(handle)?;
                Err(error)
            }
        }
    }

    pub(crate) fn run<R>(
        &mut self,
        command: Command,
        read: impl FnOnce(&mut Reader<'_>) -> Result<R, TpmDecodeError>,
    ) -> Result<R, TpmError> {
        command.run(&mut self.transport)?.read(read)
    }

    pub(crate) fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// `None` where a PCR was extended between two of the commands: one command reads at most eight.
    fn pcr_read_once(&mut self, mut missing: Vec<u32>) -> Result<Option<BTreeMap<u32, Sha256Digest>>, TpmError> {
        let mut values = BTreeMap::new();
        let mut first_counter = None;
        while let Some(next) = missing.first() {
            let selection = [PcrSelection { hash: HashAlg::Sha256, pcrs: missing.clone() }];
            let command = Command::new(Code::PCR_READ).parameters(|out| encode_selections(out, &selection));
            let (counter, read) = self.run(command, read_pcr_values)?;
            if *first_counter.get_or_insert(counter) != counter {
                return Ok(None);
            }
            if !read.contains_key(next) {
                return Err(TpmError::NoSuchPcr { pcr: *next });
            }
            missing.retain(|pcr| !read.contains_key(pcr));
            values.extend(read);
        }
        Ok(Some(values))
    }

    fn loaded(&mut self, first: u32) -> Result<Vec<u32>, TpmError> {
        let parameters = |out: Writer| out.u32(CAP_HANDLES).u32(first).u32(MAX_HANDLES);
        self.run(Command::new(Code::GET_CAPABILITY).parameters(parameters), |reader| {
            reader.u8("more data")?;
            reader.u32("capability")?;
            let count = reader.count("handle count", MAX_HANDLES as usize)?;
            (0..count).map(|_| reader.u32("handle")).collect()
        })
    }
}

impl Key {
    /// The TPM must have made what was asked for, under the name that everybody else will compute.
    fn check(&self, template: &Public) -> Result<(), TpmError> {
        let public = Public::parse(&self.public).map_err(|source| Code::CREATE_PRIMARY.malformed(source))?;
        if public.attributes != template.attributes || public.auth_policy != template.auth_policy {
            return Err(TpmError::Unexpected { command: Code::CREATE_PRIMARY.1, detail: "the key is not as its template" });
        }
        if public.name() != self.name {
            return Err(TpmError::Unexpected { command: Code::CREATE_PRIMARY.1, detail: "the name is not that of the key" });
        }
        Ok(())
    }
}

pub(crate) fn check_length(code: Code, what: &'static str, bytes: &[u8], limit: usize) -> Result<(), TpmError> {
    match bytes.len() {
        len if len > limit => Err(TpmError::TooLong { command: code.1, what, len, limit }),
        _ => Ok(()),
    }
}

/// TPMT_TK_CREATION and its like: tag, hierarchy, digest.
pub(crate) fn read_ticket(reader: &mut Reader<'_>) -> Result<(), TpmDecodeError> {
    reader.u16("ticket tag")?;
    reader.u32("ticket hierarchy")?;
    reader.sized("ticket digest", MAX_STRUCTURE)?;
    Ok(())
}

/// The update counter and the values by index.
fn read_pcr_values(reader: &mut Reader<'_>) -> Result<(u32, BTreeMap<u32, Sha256Digest>), TpmDecodeError> {
    let counter = reader.u32("PCR update counter")?;
    let selections = decode_selections(reader)?;
    let count = reader.count("PCR value count", MAX_PCRS_PER_READ)?;
    let pcrs = selections.iter().filter(|selection| selection.hash == HashAlg::Sha256).flat_map(|selection| &selection.pcrs);
    let mut values = BTreeMap::new();
    for pcr in pcrs.take(count) {
        let value = reader.sized("PCR value", 32)?;
        let short = TpmDecodeError::Short { field: "PCR value", need: 32, have: value.len() };
        values.insert(*pcr, value.try_into().map_err(|_| short)?);
    }
    Ok((counter, values))
}

/// TPM_RH_OWNER.
const RH_OWNER: u32 = 0x4000_0001;
/// TPM_SU_CLEAR.
const SU_CLEAR: u16 = 0;
/// TPM_ALG_NULL.
pub(crate) const ALG_NULL: u16 = 0x0010;
/// TPM_CAP_HANDLES.
const CAP_HANDLES: u32 = 1;
/// First handle of loaded keys.
const HT_TRANSIENT: u32 = 0x8000_0000;
/// First handle of loaded sessions.
const HT_LOADED_SESSION: u32 = 0x0200_0000;
/// Handles asked for at once; a TPM has a handful.
const MAX_HANDLES: u32 = 64;
/// TPML_DIGEST has at most eight.
const MAX_PCRS_PER_READ: usize = 8;
/// Attempts to read PCRs while others extend them.
const PCR_READ_ATTEMPTS: u32 = 4;
/// Sized part of a response.
pub(crate) const MAX_STRUCTURE: usize = 2048;
/// Data in a quote: the largest digest.
const MAX_QUALIFYING: usize = 64;
