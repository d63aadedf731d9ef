//! The container: header, body, and who signed it.

use super::{ENCLAVE_REPORT_BYTES, EnclaveReport, QuoteError, TD_REPORT_10_BYTES, TD_REPORT_15_BYTES, TdReport, reader::Reader};

/// Largest accepted quote, in bytes, padding included. Quotes have about 5000.
pub const MAX_QUOTE_BYTES: usize = 64 << 10;
/// Size of the header.
pub const HEADER_BYTES: usize = 48;

/// A whole quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// The header.
    pub header: Header,
    /// What is attested.
    pub body: Body,
    /// Who signed it.
    pub auth: AuthData,
    /// Zero bytes after the quote: buffers of a fixed size are common. They say nothing.
    pub padding: usize,
}

/// The header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 3 (SGX only), 4 or 5.
    pub version: u16,
    /// Of what kind the attested thing is.
    pub tee: TeeKind,
    /// Version 3: security versions of quoting enclave and provisioning certification enclave; reserved later.
    pub reserved: [u8; 4],
    /// UUID of who made the quoting enclave.
    pub qe_vendor: [u8; 16],
    /// Starts with an identifier of the platform, given by the quoting enclave.
    pub user_data: [u8; 20],
}

/// The kind of trusted execution environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TeeKind {
    /// An SGX enclave.
    Sgx,
    /// A TDX trust domain.
    Tdx,
}

/// What is attested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// An enclave.
    Enclave(Box<EnclaveReport>),
    /// A trust domain.
    TrustDomain(Box<TdReport>),
}

/// The signature and what leads from it to a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthData {
    /// ECDSA P-256 over [`Quote::signed_part`], r then s.
    pub signature: [u8; 64],
    /// The key that made it, x then y.
    pub attestation_key: [u8; 64],
    /// The quoting enclave's report, which binds that key.
    pub qe_report: EnclaveReport,
    /// ECDSA P-256 over it by the PCK key, r then s.
    pub qe_report_signature: [u8; 64],
    /// The quoting enclave's own data, bound together with the key.
    pub qe_auth: Vec<u8>,
    /// PCK certificate chain in PEM form, leaf first.
    pub pck_chain: Vec<u8>,
}

impl Quote {
    /// The quote in `bytes`. After it only zero bytes may follow.
    pub fn decode(bytes: &[u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_QUOTE_BYTES {
            return Err(QuoteError::TooLong { len: bytes.len() });
        }
        let mut reader = Reader::new(bytes);
        let header = Header::decode(&mut reader)?;
        let body = Body::decode(&mut reader, &header)?;
        let auth = AuthData::decode(reader.sized("the signature data")?, header.version)?;
        let rest = reader.rest();
        if rest.iter().any(|byte| *byte != 0) {
            return Err(QuoteError::Trailing { count: rest.len() });
        }
        Ok(Self { header, body, auth, padding: rest.len() })
    }

    /// The report of a trust domain, if it is one's.
    pub fn td_report(&self) -> Option<&TdReport> {
        match &self.body {
            Body::TrustDomain(report) => Some(report),
            Body::Enclave(_) => None,
        }
    }

    /// The encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.signed_part();
        sized(&mut out, &self.auth.encode(self.header.version));
        out.resize(out.len() + self.padding, 0);
        out
    }

    /// What the attestation key signs: header and body (in version 5 with the body's descriptor).
    pub fn signed_part(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + 6 + TD_REPORT_15_BYTES);
        self.header.encode(&mut out);
        self.body.encode(&mut out, self.header.version);
        out
    }
}

impl Header {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, QuoteError> {
        let version = reader.u16("the version")?;
        if !(3..=5).contains(&version) {
            return Err(QuoteError::Unknown { field: "the version", value: version.into() });
        }
        let key_type = reader.u16("the attestation key type")?;
        if key_type != ECDSA_P256 {
            return Err(QuoteError::Unknown { field: "the attestation key type", value: key_type.into() });
        }
        let tee = match reader.u32("the TEE type")? {
            SGX => TeeKind::Sgx,
            TDX if version > 3 => TeeKind::Tdx,
            value => return Err(QuoteError::Unknown { field: "the TEE type", value }),
        };
        let reserved = reader.array("the reserved bytes")?;
        let (qe_vendor, user_data) = (reader.array("the vendor id")?, reader.array("the user data")?);
        Ok(Self { version, tee, reserved, qe_vendor, user_data })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let tee = match self.tee {
            TeeKind::Sgx => SGX,
            TeeKind::Tdx => TDX,
        };
        out.extend(self.version.to_le_bytes());
        out.extend(ECDSA_P256.to_le_bytes());
        out.extend(tee.to_le_bytes());
        out.extend(self.reserved);
        out.extend(self.qe_vendor);
        out.extend(self.user_data);
    }
}

impl Body {
    fn decode(reader: &mut Reader<'_>, header: &Header) -> Result<Self, QuoteError> {
        if header.version < 5 {
            return Self::of_kind(reader, header.tee, false);
        }
        let kind = reader.u16("the body type")?;
        let mut body = reader.sized("the body")?;
        let size = body.len();
        let (tee, has_td15, expected) = match kind {
            BODY_ENCLAVE => (TeeKind::Sgx, false, ENCLAVE_REPORT_BYTES),
            BODY_TD_10 => (TeeKind::Tdx, false, TD_REPORT_10_BYTES),
            BODY_TD_15 => (TeeKind::Tdx, true, TD_REPORT_15_BYTES),
            _ => return Err(QuoteError::Unknown { field: "the body type", value: kind.into() }),
        };
        if size != expected {
            return Err(QuoteError::Size { field: "the body", expected, seen: size });
        }
        if tee != header.tee {
            return Err(QuoteError::Unknown { field: "the body type for this TEE type", value: kind.into() });
        }
        Self::of_kind(&mut body, tee, has_td15)
    }

    fn of_kind(reader: &mut Reader<'_>, tee: TeeKind, has_td15: bool) -> Result<Self, QuoteError> {
        Ok(match tee {
            TeeKind::Sgx => Self::Enclave(Box::new(EnclaveReport { bytes: reader.array("the enclave report")? })),
            TeeKind::Tdx => Self::TrustDomain(Box::new(TdReport::decode(reader, has_td15)?)),
        })
    }

    fn encode(&self, out: &mut Vec<u8>, version: u16) {
        let mut body = Vec::with_capacity(TD_REPORT_15_BYTES);
        let kind = match self {
            Self::Enclave(report) => {
                body.extend(report.bytes);
                BODY_ENCLAVE
            }
            Self::TrustDomain(report) => {
                report.encode(&mut body);
                if report.td15.is_some() { BODY_TD_15 } else { BODY_TD_10 }
            }
        };
        if version < 5 {
            out.extend(body);
        } else {
            out.extend(kind.to_le_bytes());
            sized(out, &body);
        }
    }
}

impl AuthData {
    fn decode(mut reader: Reader<'_>, version: u16) -> Result<Self, QuoteError> {
        let size = reader.len();
        let (signature, attestation_key) = (reader.array("the signature")?, reader.array("the attestation key")?);
        if version == 3 {
            return Self::certified(reader, signature, attestation_key, "the signature data", size);
        }
        let kind = reader.u16("the certification data type")?;
        if kind != QE_REPORT_DATA {
            return Err(QuoteError::Unknown { field: "the certification data type", value: kind.into() });
        }
        let inner = reader.sized("the certification data")?;
        reader.finish("the signature data", size)?;
        let size = inner.len();
        Self::certified(inner, signature, attestation_key, "the certification data", size)
    }

    /// The quoting enclave's report, its data, and the certificates.
    fn certified(
        mut reader: Reader<'_>,
        signature: [u8; 64],
        attestation_key: [u8; 64],
        field: &'static str,
        size: usize,
    ) -> Result<Self, QuoteError> {
        let qe_report = EnclaveReport { bytes: reader.array("the quoting enclave's report")? };
        let qe_report_signature = reader.array("the signature on that report")?;
        let qe_auth_size = reader.u16("the quoting enclave's data")?;
        let qe_auth = reader.take("the quoting enclave's data", qe_auth_size.into())?.to_vec();
        let seen = reader.u16("the type of the certificates")?;
        if seen != PCK_CHAIN {
            return Err(QuoteError::CertificationData { seen });
        }
        let pck_chain = reader.sized("the certificates")?.rest().to_vec();
        reader.finish(field, size)?;
        Ok(Self { signature, attestation_key, qe_report, qe_report_signature, qe_auth, pck_chain })
    }

    fn encode(&self, version: u16) -> Vec<u8> {
        let mut certified = self.qe_report.bytes.to_vec();
        certified.extend(self.qe_report_signature);
        let qe_auth_size = u16::try_from(self.qe_auth.len()).expect("the quoting enclave's data is shorter than 64 KiB");
        certified.extend(qe_auth_size.to_le_bytes());
        certified.extend(&self.qe_auth);
        certified.extend(PCK_CHAIN.to_le_bytes());
        sized(&mut certified, &self.pck_chain);
        let mut out = self.signature.to_vec();
        out.extend(self.attestation_key);
        if version == 3 {
            out.extend(certified);
        } else {
            out.extend(QE_REPORT_DATA.to_le_bytes());
            sized(&mut out, &certified);
        }
        out
    }
}

fn sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let size = u32::try_from(bytes.len()).expect("a quote is shorter than 4 GiB");
    out.extend(size.to_le_bytes());
    out.extend(bytes);
}

const ECDSA_P256: u16 = 2;
const SGX: u32 = 0;
const TDX: u32 = 0x81;
const BODY_ENCLAVE: u16 = 1;
const BODY_TD_10: u16 = 2;
const BODY_TD_15: u16 = 3;
/// The PCK certificate chain in PEM form.
const PCK_CHAIN: u16 = 5;
/// The quoting enclave's report, with certification data of its own.
const QE_REPORT_DATA: u16 = 6;
