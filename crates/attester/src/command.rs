//! Commands and responses as bytes (Part 1, section 18 "Command/response structure").

use std::{thread, time::Duration};

use casemate_evidence::tpm::{
    TpmDecodeError,
    wire::{Reader, Writer},
};

use crate::{MAX_COMMAND_BYTES, MAX_RESPONSE_BYTES, ResponseCode, TpmError, Transport};

/// Command codes (Part 2, section 6.5.2) with their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u32, pub(crate) &'static str);

impl Code {
    pub(crate) const CREATE_PRIMARY: Self = Self(0x131, "TPM2_CreatePrimary");
    pub(crate) const STARTUP: Self = Self(0x144, "TPM2_Startup");
    pub(crate) const SHUTDOWN: Self = Self(0x145, "TPM2_Shutdown");
    pub(crate) const ACTIVATE_CREDENTIAL: Self = Self(0x147, "TPM2_ActivateCredential");
    pub(crate) const NV_READ: Self = Self(0x14e, "TPM2_NV_Read");
    pub(crate) const POLICY_SECRET: Self = Self(0x151, "TPM2_PolicySecret");
    pub(crate) const QUOTE: Self = Self(0x158, "TPM2_Quote");
    pub(crate) const FLUSH_CONTEXT: Self = Self(0x165, "TPM2_FlushContext");
    pub(crate) const NV_READ_PUBLIC: Self = Self(0x169, "TPM2_NV_ReadPublic");
    pub(crate) const START_AUTH_SESSION: Self = Self(0x176, "TPM2_StartAuthSession");
    pub(crate) const GET_CAPABILITY: Self = Self(0x17a, "TPM2_GetCapability");
    pub(crate) const PCR_READ: Self = Self(0x17e, "TPM2_PCR_Read");
    pub(crate) const PCR_EXTEND: Self = Self(0x182, "TPM2_PCR_Extend");

    pub(crate) fn malformed(self, source: TpmDecodeError) -> TpmError {
        TpmError::Malformed { command: self.1, source }
    }
}

/// One command.
pub(crate) struct Command {
    code: Code,
    handles: Vec<u32>,
    sessions: Vec<u32>,
    parameters: Writer,
}

/// The successful response to one.
pub(crate) struct Response {
    code: Code,
    /// All after the header.
    body: Vec<u8>,
    with_sessions: bool,
}

impl Command {
    pub(crate) fn new(code: Code) -> Self {
        Self { code, handles: Vec::new(), sessions: Vec::new(), parameters: Writer::new() }
    }

    /// Adds a handle that needs no authorisation.
    pub(crate) fn handle(mut self, handle: u32) -> Self {
        self.handles.push(handle);
        self
    }

    /// Adds a handle that is authorised by the empty password.
    pub(crate) fn handle_with_empty_password(self, handle: u32) -> Self {
        self.handle_with_session(handle, RS_PW)
    }

    /// Adds a handle that is authorised by a policy session.
    pub(crate) fn handle_with_session(mut self, handle: u32, session: u32) -> Self {
        self.sessions.push(session);
        self.handle(handle)
    }

    /// Writes the parameters.
    pub(crate) fn parameters(mut self, write: impl FnOnce(Writer) -> Writer) -> Self {
        self.parameters = write(self.parameters);
        self
    }

    pub(crate) fn run(self, transport: &mut impl Transport) -> Result<Response, TpmError> {
        let code = self.code;
        let with_sessions = !self.sessions.is_empty();
        let bytes = self.encode();
        if bytes.len() > MAX_COMMAND_BYTES {
            return Err(TpmError::TooLong { command: code.1, what: "parameters", len: bytes.len(), limit: MAX_COMMAND_BYTES });
        }
        let mut attempt = || {
            let response = transport.transact(&bytes).map_err(|source| TpmError::Transport { command: code.1, source })?;
            Response::decode(code, &response, with_sessions)
        };
        // "Send it again": the TPM was testing itself or busy and did nothing. The kernel's driver retries by itself, sockets do not.
        for wait in RETRY_WAITS {
            match attempt() {
                Err(TpmError::Refused { code, .. }) if code.asks_to_retry() => thread::sleep(wait),
                result => return result,
            }
        }
        attempt()
    }

    fn encode(self) -> Vec<u8> {
        let mut body = self.handles.iter().fold(Writer::new(), |writer, handle| writer.u32(*handle));
        if !self.sessions.is_empty() {
            // TPMS_AUTH_COMMAND: session, no nonce, no attributes (the session ends with the command), empty HMAC or password.
            let area =
                self.sessions.iter().fold(Writer::new(), |writer, session| writer.u32(*session).u16(0).u8(0).u16(0)).finish();
            body = body.u32(length(&area)).bytes(&area);
        }
        let body = body.bytes(&self.parameters.finish()).finish();
        let tag = if self.sessions.is_empty() { ST_NO_SESSIONS } else { ST_SESSIONS };
        Writer::new().u16(tag).u32(10 + length(&body)).u32(self.code.0).bytes(&body).finish()
    }
}

impl Response {
    fn decode(code: Code, bytes: &[u8], with_sessions: bool) -> Result<Self, TpmError> {
        if bytes.len() > MAX_RESPONSE_BYTES {
            return Err(TpmError::Unexpected { command: code.1, detail: "longer than 4096 bytes" });
        }
        let mut reader = Reader::new(bytes);
        let malformed = |source| code.malformed(source);
        let tag = reader.u16("response tag").map_err(malformed)?;
        let size = reader.u32("response size").map_err(malformed)?;
        let rc = reader.u32("response code").map_err(malformed)?;
        if usize::try_from(size) != Ok(bytes.len()) {
            return Err(TpmError::Unexpected { command: code.1, detail: "its length is not the one it states" });
        }
        if rc != 0 {
            return Err(TpmError::Refused { command: code.1, code: ResponseCode(rc) });
        }
        if tag != (if with_sessions { ST_SESSIONS } else { ST_NO_SESSIONS }) {
            return Err(TpmError::Unexpected { command: code.1, detail: "its tag is of another kind of command" });
        }
        Ok(Self { code, body: reader.rest().to_vec(), with_sessions })
    }

    /// Takes the parameters apart; all of them must be read.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&mut Reader<'_>) -> Result<T, TpmDecodeError>) -> Result<T, TpmError> {
        self.read_parameters(Reader::new(&self.body), read)
    }

    /// The handle that the command made, and the parameters.
    pub(crate) fn read_with_handle<T>(
        &self,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, TpmDecodeError>,
    ) -> Result<(u32, T), TpmError> {
        let mut reader = Reader::new(&self.body);
        let handle = reader.u32("response handle").map_err(|source| self.code.malformed(source))?;
        Ok((handle, self.read_parameters(reader, read)?))
    }

    fn read_parameters<T>(
        &self,
        mut reader: Reader<'_>,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, TpmDecodeError>,
    ) -> Result<T, TpmError> {
        let parse = || {
            // The sessions' part behind the parameters is not read: nothing here uses HMAC sessions.
            let mut parameters = if self.with_sessions {
                let size = reader.count("parameter size", MAX_RESPONSE_BYTES)?;
                Reader::new(reader.take("parameters", size)?)
            } else {
                reader
            };
            let value = read(&mut parameters)?;
            parameters.finish("response parameters")?;
            Ok(value)
        };
        parse().map_err(|source| self.code.malformed(source))
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("commands are shorter than 4 GiB")
}

/// Waits before each new attempt at a command that the TPM wants sent again; 4 s in all.
const RETRY_WAITS: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_millis(2),
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(250),
    Duration::from_millis(650),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// TPM_ST_NO_SESSIONS.
pub(crate) const ST_NO_SESSIONS: u16 = 0x8001;
/// TPM_ST_SESSIONS.
pub(crate) const ST_SESSIONS: u16 = 0x8002;
/// TPM_RS_PW: the password "session".
const RS_PW: u32 = 0x4000_0009;
