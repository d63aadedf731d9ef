//! The stand-in at the level of commands: those that provisioning and a guest use, with the empty password only.

use casemate_evidence::tpm::{
    HashAlg, PcrSelection, TpmDecodeError, decode_selections, encode_selections,
    wire::{Reader, Writer},
};

use super::{MAX_QUALIFYING, RH_OWNER, SoftTpm};
use crate::{
    ResponseCode, ak_template,
    command::{Code, ST_NO_SESSIONS, ST_SESSIONS},
};

/// The response to `command`, whatever its bytes are.
pub(super) fn answer(tpm: &mut SoftTpm, command: &[u8]) -> Vec<u8> {
    let (tag, rc, body) = match Request::decode(command).and_then(|request| request.execute(tpm)) {
        Ok(body) => (if body.with_sessions { ST_SESSIONS } else { ST_NO_SESSIONS }, 0, body.encode()),
        Err(Refusal(rc)) => (ST_NO_SESSIONS, rc, Vec::new()),
    };
    let size = u32::try_from(10 + body.len()).expect("responses are small");
    Writer::new().u16(tag).u32(size).u32(rc).bytes(&body).finish()
}

struct Request<'a> {
    code: u32,
    with_sessions: bool,
    rest: Reader<'a>,
}

struct Reply {
    handle: Option<u32>,
    parameters: Writer,
    with_sessions: bool,
}

struct Refusal(u32);

impl From<TpmDecodeError> for Refusal {
    fn from(_: TpmDecodeError) -> Self {
        Self(RC_SIZE)
    }
}

impl<'a> Request<'a> {
    fn decode(command: &'a [u8]) -> Result<Self, Refusal> {
        let mut rest = Reader::new(command);
        let with_sessions = match rest.u16("tag")? {
            ST_SESSIONS => true,
            ST_NO_SESSIONS => false,
            _ => return Err(Refusal(RC_BAD_TAG)),
        };
        if usize::try_from(rest.u32("size")?) != Ok(command.len()) {
            return Err(Refusal(RC_COMMAND_SIZE));
        }
        Ok(Self { code: rest.u32("command code")?, with_sessions, rest })
    }

    fn execute(mut self, tpm: &mut SoftTpm) -> Result<Reply, Refusal> {
        let code = self.code;
        let reply = match code {
            // Started from the first, so that a second TPM2_Startup is answered as by a started TPM.
            _ if code == Code::STARTUP.0 => return Err(Refusal(ResponseCode::INITIALIZE.0)),
            _ if code == Code::SHUTDOWN.0 => {
                self.rest.u16("shutdown type")?;
                Writer::new()
            }
            _ if code == Code::PCR_EXTEND.0 => self.pcr_extend(tpm)?,
            _ if code == Code::PCR_READ.0 => self.pcr_read(tpm)?,
            _ if code == Code::CREATE_PRIMARY.0 => return self.create_primary(tpm),
            _ if code == Code::QUOTE.0 => self.quote(tpm)?,
            _ if code == Code::GET_CAPABILITY.0 => self.no_loaded_handles()?,
            _ if code == Code::FLUSH_CONTEXT.0 => {
                self.rest.u32("handle")?;
                Writer::new()
            }
            _ => return Err(Refusal(RC_COMMAND_CODE)),
        };
        self.reply(None, reply)
    }

    fn pcr_extend(&mut self, tpm: &mut SoftTpm) -> Result<Writer, Refusal> {
        let pcr = self.handle_with_password()?;
        if self.rest.u32("digest count")? != 1 || self.rest.u16("digest algorithm")? != HashAlg::Sha256.id() {
            return Err(Refusal(RC_HASH));
        }
        let digest = self.rest.take("digest", 32)?.try_into().expect("take returned 32 bytes");
        tpm.extend(pcr, &digest).ok_or(Refusal(RC_VALUE))?;
        Ok(Writer::new())
    }

    fn pcr_read(&mut self, tpm: &SoftTpm) -> Result<Writer, Refusal> {
        let mut values = tpm.read(&sha256_pcrs(&mut self.rest)?);
        while values.len() > MAX_PCRS_PER_READ {
            values.pop_last();
        }
        let selection = PcrSelection { hash: HashAlg::Sha256, pcrs: values.keys().copied().collect() };
        let out = encode_selections(Writer::new().u32(tpm.updates), &[selection]);
        let out = out.u32(u32::try_from(values.len()).expect("at most eight"));
        Ok(values.values().fold(out, |out, value| out.sized(value)))
    }

    /// Knows one key: the attestation key's template in the owner hierarchy.
    fn create_primary(mut self, tpm: &SoftTpm) -> Result<Reply, Refusal> {
        if self.handle_with_password()? != RH_OWNER {
            return Err(Refusal(RC_VALUE));
        }
        self.rest.sized("sensitive", MAX_STRUCTURE)?;
        if self.rest.sized("template", MAX_STRUCTURE)? != ak_template().encode() {
            return Err(Refusal(RC_TYPE));
        }
        self.rest.sized("outside info", MAX_STRUCTURE)?;
        decode_selections(&mut self.rest)?;
        // Creation data and hash are left empty: nobody certifies a creation here. The ticket is TPM_ST_CREATION of the owner.
        let out = Writer::new().sized(&tpm.public).u16(0).u16(0).u16(0x8021).u32(RH_OWNER).u16(0).sized(&tpm.name);
        self.reply(Some(AK_HANDLE), out)
    }

    fn quote(&mut self, tpm: &SoftTpm) -> Result<Writer, Refusal> {
        if self.handle_with_password()? != AK_HANDLE {
            return Err(Refusal(RC_HANDLE));
        }
        let qualifying = self.rest.sized("qualifying data", MAX_QUALIFYING)?;
        self.rest.u16("scheme")?;
        let (attest, signature) = tpm.sign_quote(qualifying, &sha256_pcrs(&mut self.rest)?);
        Ok(Writer::new().sized(&attest).bytes(&signature))
    }

    fn no_loaded_handles(&mut self) -> Result<Writer, Refusal> {
        self.rest.take("capability, property, count", 12)?;
        Ok(Writer::new().u8(0).u32(1).u32(0))
    }

    fn handle_with_password(&mut self) -> Result<u32, Refusal> {
        let handle = self.rest.u32("handle")?;
        if !self.with_sessions {
            return Err(Refusal(RC_AUTH_MISSING));
        }
        let size = self.rest.count("authorisation size", MAX_STRUCTURE)?;
        self.rest.take("authorisation", size)?;
        Ok(handle)
    }

    fn reply(self, handle: Option<u32>, parameters: Writer) -> Result<Reply, Refusal> {
        self.rest.finish("command")?;
        Ok(Reply { handle, parameters, with_sessions: self.with_sessions })
    }
}

impl Reply {
    fn encode(self) -> Vec<u8> {
        let head = self.handle.into_iter().fold(Writer::new(), Writer::u32);
        let parameters = self.parameters.finish();
        if !self.with_sessions {
            return head.bytes(&parameters).finish();
        }
        let size = u32::try_from(parameters.len()).expect("parameters are small");
        // TPMS_AUTH_RESPONSE of a password: no nonce, continueSession, no HMAC.
        head.u32(size).bytes(&parameters).u16(0).u8(1).u16(0).finish()
    }
}

fn sha256_pcrs(reader: &mut Reader<'_>) -> Result<Vec<u32>, Refusal> {
    let selections = decode_selections(reader)?;
    Ok(selections
        .into_iter()
        .filter(|selection| selection.hash == HashAlg::Sha256)
        .flat_map(|selection| selection.pcrs)
        .collect())
}

const AK_HANDLE: u32 = 0x8000_0000;
const MAX_PCRS_PER_READ: usize = 8;
const MAX_STRUCTURE: usize = 1024;
const RC_BAD_TAG: u32 = 0x01e;
const RC_HASH: u32 = 0x083;
const RC_VALUE: u32 = 0x084;
const RC_TYPE: u32 = 0x08a;
const RC_HANDLE: u32 = 0x08b;
const RC_SIZE: u32 = 0x095;
const RC_AUTH_MISSING: u32 = 0x125;
const RC_COMMAND_SIZE: u32 = 0x142;
const RC_COMMAND_CODE: u32 = 0x143;
