//! The SGX extension of a PCK certificate ("Intel SGX PCK Certificate and Certificate Revocation List Profile Specification",
//! section 1.3.5).

use x509_cert::der::{
    self, Decode as _, Reader as _, SliceReader,
    asn1::{ObjectIdentifier, OctetStringRef},
};

use crate::x509::Certificate;

/// What the extension says of a processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SgxExtension {
    /// Identifier of the package.
    pub(super) ppid: [u8; 16],
    /// Security versions of the components of the SGX TCB.
    pub(super) components: [u8; 16],
    /// Security version of the provisioning certification enclave.
    pub(super) pce_svn: u16,
    /// The components as the processor gives them.
    pub(super) cpu_svn: [u8; 16],
    /// Identifier of the provisioning certification enclave.
    pub(super) pce_id: [u8; 2],
    /// Family, model, stepping, platform type and the like: what TCB info is about.
    pub(super) fmspc: [u8; 6],
    /// 0 standard, 1 scalable, 2 scalable with integrity.
    pub(super) sgx_type: u8,
    /// Of platforms with several packages.
    pub(super) platform_instance: Option<[u8; 16]>,
    /// Of the same.
    pub(super) configuration: Option<Configuration>,
}

/// How a platform with several packages is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Configuration {
    /// Packages may be added.
    pub(super) dynamic_platform: bool,
    /// Keys are kept by the registration service.
    pub(super) cached_keys: bool,
    /// Hyper-threading is on.
    pub(super) smt_enabled: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ExtensionError {
    #[error("there is none")]
    Missing,
    #[error("it is not well-formed")]
    Malformed(#[from] der::Error),
    #[error("{0} is there twice")]
    Twice(ObjectIdentifier),
    #[error("{0} is not there")]
    Absent(&'static str),
    #[error("{0} has a value that it must not have")]
    Value(&'static str),
    #[error("it has the field {0}, which is not known")]
    Unknown(ObjectIdentifier),
}

impl SgxExtension {
    pub(super) fn of(certificate: &Certificate) -> Result<Self, ExtensionError> {
        let extension = certificate.extensions().iter().find(|extension| extension.extn_id == SGX_EXTENSION);
        Self::decode(extension.ok_or(ExtensionError::Missing)?.extn_value.as_bytes())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ExtensionError> {
        let mut fields = Fields::decode(bytes)?;
        let mut tcb = Fields::decode(fields.take(SGX_EXTENSION, 2, "the TCB")?)?;
        let mut components = [0; 16];
        for (arc, component) in (1..).zip(&mut components) {
            *component = u8::from_der(tcb.take(TCB, arc, "a component of the TCB")?)?;
        }
        let pce_svn = u16::from_der(tcb.take(TCB, 17, "PCESVN")?)?;
        let cpu_svn = octets(tcb.take(TCB, 18, "CPUSVN")?, "CPUSVN")?;
        tcb.finish()?;
        let extension = Self {
            ppid: octets(fields.take(SGX_EXTENSION, 1, "PPID")?, "PPID")?,
            components,
            pce_svn,
            cpu_svn,
            pce_id: octets(fields.take(SGX_EXTENSION, 3, "PCEID")?, "PCEID")?,
            fmspc: octets(fields.take(SGX_EXTENSION, 4, "FMSPC")?, "FMSPC")?,
            sgx_type: sgx_type(fields.take(SGX_EXTENSION, 5, "SGX type")?)?,
            platform_instance: match fields.find(SGX_EXTENSION, 6) {
                Some(value) => Some(octets(value, "platform instance id")?),
                None => None,
            },
            configuration: match fields.find(SGX_EXTENSION, 7) {
                Some(value) => Some(Configuration::decode(value)?),
                None => None,
            },
        };
        fields.finish()?;
        Ok(extension)
    }
}

impl Configuration {
    fn decode(bytes: &[u8]) -> Result<Self, ExtensionError> {
        let mut fields = Fields::decode(bytes)?;
        let mut flag = |arc, what| Ok::<_, ExtensionError>(bool::from_der(fields.take(CONFIGURATION, arc, what)?)?);
        let configuration = Self {
            dynamic_platform: flag(1, "dynamic platform")?,
            cached_keys: flag(2, "cached keys")?,
            smt_enabled: flag(3, "SMT enabled")?,
        };
        fields.finish()?;
        Ok(configuration)
    }
}

/// SEQUENCE OF SEQUENCE { id, value }, each id once.
struct Fields<'a>(Vec<(ObjectIdentifier, &'a [u8])>);

impl<'a> Fields<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, ExtensionError> {
        let mut found: Vec<(ObjectIdentifier, &[u8])> = Vec::new();
        let mut reader = SliceReader::new(bytes)?;
        reader.sequence(|list| {
            while !list.is_finished() {
                found.push(list.sequence(|field| Ok::<_, der::Error>((field.decode()?, field.tlv_bytes()?)))?);
            }
            Ok::<_, der::Error>(())
        })?;
        reader.finish()?;
        for (index, (id, _)) in found.iter().enumerate() {
            if found[..index].iter().any(|(earlier, _)| earlier == id) {
                return Err(ExtensionError::Twice(*id));
            }
        }
        Ok(Self(found))
    }

    fn find(&mut self, parent: ObjectIdentifier, arc: u32) -> Option<&'a [u8]> {
        let wanted = parent.push_arc(arc).ok()?;
        let at = self.0.iter().position(|(id, _)| *id == wanted)?;
        Some(self.0.swap_remove(at).1)
    }

    fn take(&mut self, parent: ObjectIdentifier, arc: u32, what: &'static str) -> Result<&'a [u8], ExtensionError> {
        self.find(parent, arc).ok_or(ExtensionError::Absent(what))
    }

    fn finish(self) -> Result<(), ExtensionError> {
        self.0.first().map_or(Ok(()), |(id, _)| Err(ExtensionError::Unknown(*id)))
    }
}

fn octets<const N: usize>(value: &[u8], what: &'static str) -> Result<[u8; N], ExtensionError> {
    <&OctetStringRef>::from_der(value)?.as_bytes().try_into().map_err(|_| ExtensionError::Value(what))
}

/// ENUMERATED.
fn sgx_type(value: &[u8]) -> Result<u8, ExtensionError> {
    match value {
        [0x0a, 1, kind @ 0..=2] => Ok(*kind),
        _ => Err(ExtensionError::Value("SGX type")),
    }
}

const SGX_EXTENSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1");
const TCB: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.2");
const CONFIGURATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.7");
