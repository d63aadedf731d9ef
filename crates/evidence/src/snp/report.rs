//! The report.

use super::{Cpuid, FirmwareVersion, GuestPolicy, Mitigations, PlatformInfo, SigningKey, SnpDecodeError, TcbBytes, Version};

/// Size of a report.
pub const REPORT_BYTES: usize = 0x4a0;
/// The first so many bytes of a report are signed.
pub const SIGNED_BYTES: usize = 0x2a0;

/// ATTESTATION_REPORT. [`encode`](Self::encode) gives exactly the bytes that it was decoded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationReport {
    /// VERSION and what depends on it.
    pub version: Version,
    /// GUEST_SVN of the ID block.
    pub guest_svn: u32,
    /// POLICY.
    pub policy: GuestPolicy,
    /// FAMILY_ID of the ID block.
    pub family_id: [u8; 16],
    /// IMAGE_ID of the ID block.
    pub image_id: [u8; 16],
    /// VMPL that asked for the report. 0 to 3 where the guest asked, 0xffffffff where the host did.
    pub vmpl: u32,
    /// SIGNATURE_ALGO: 1 is ECDSA P-384 with SHA-384.
    pub signature_algo: u32,
    /// CURRENT_TCB.
    pub current_tcb: TcbBytes,
    /// PLATFORM_INFO.
    pub platform_info: PlatformInfo,
    /// AUTHOR_KEY_EN: the digest of the author key is there.
    pub author_key_en: bool,
    /// MASK_CHIP_KEY: the chip's key is not used for signing.
    pub mask_chip_key: bool,
    /// SIGNING_KEY.
    pub signing_key: SigningKey,
    /// REPORT_DATA: what the guest wanted in the report.
    pub report_data: [u8; 64],
    /// MEASUREMENT at launch.
    pub measurement: [u8; 48],
    /// HOST_DATA: what the host gave at launch.
    pub host_data: [u8; 32],
    /// ID_KEY_DIGEST: SHA-384 of the key that signed the ID block.
    pub id_key_digest: [u8; 48],
    /// AUTHOR_KEY_DIGEST: SHA-384 of the key that certified the ID key.
    pub author_key_digest: [u8; 48],
    /// REPORT_ID of this guest.
    pub report_id: [u8; 32],
    /// REPORT_ID_MA of its migration agent; all ones without one.
    pub report_id_ma: [u8; 32],
    /// REPORTED_TCB: the one that the signing key is derived from.
    pub reported_tcb: TcbBytes,
    /// CHIP_ID, zero where it is masked.
    pub chip_id: [u8; 64],
    /// COMMITTED_TCB: firmware cannot go back behind it.
    pub committed_tcb: TcbBytes,
    /// CURRENT_MAJOR, CURRENT_MINOR, CURRENT_BUILD.
    pub current_version: FirmwareVersion,
    /// COMMITTED_MAJOR, COMMITTED_MINOR, COMMITTED_BUILD.
    pub committed_version: FirmwareVersion,
    /// LAUNCH_TCB: the current one when the guest was launched.
    pub launch_tcb: TcbBytes,
    /// SIGNATURE.
    pub signature: ReportSignature,
}

/// Signature by ECDSA P-384: two little-endian integers in 72 bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportSignature {
    /// R.
    pub r: [u8; 72],
    /// S.
    pub s: [u8; 72],
}

impl AttestationReport {
    /// The report in `bytes`, which are nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnpDecodeError> {
        let bytes: &[u8; REPORT_BYTES] = bytes.try_into().map_err(|_| SnpDecodeError::Length { len: bytes.len() })?;
        let version = decode_version(bytes)?;
        require_zero(bytes, version)?;
        let flags = u32_at(bytes, FLAGS);
        let signing_key = match flags >> 2 & 7 {
            0 => SigningKey::Vcek,
            1 => SigningKey::Vlek,
            7 => SigningKey::None,
            value => return Err(SnpDecodeError::Value { field: "SIGNING_KEY", value }),
        };
        if flags >> 5 != 0 {
            return Err(SnpDecodeError::Reserved { field: "the flags", offset: FLAGS });
        }
        Ok(Self {
            version,
            guest_svn: u32_at(bytes, 0x04),
            policy: GuestPolicy(u64_at(bytes, 0x08)),
            family_id: array_at(bytes, 0x10),
            image_id: array_at(bytes, 0x20),
            vmpl: u32_at(bytes, 0x30),
            signature_algo: u32_at(bytes, 0x34),
            current_tcb: TcbBytes(array_at(bytes, 0x38)),
            platform_info: PlatformInfo(u64_at(bytes, 0x40)),
            author_key_en: flags & 1 != 0,
            mask_chip_key: flags & 2 != 0,
            signing_key,
            report_data: array_at(bytes, 0x50),
            measurement: array_at(bytes, 0x90),
            host_data: array_at(bytes, 0xc0),
            id_key_digest: array_at(bytes, 0xe0),
            author_key_digest: array_at(bytes, 0x110),
            report_id: array_at(bytes, 0x140),
            report_id_ma: array_at(bytes, 0x160),
            reported_tcb: TcbBytes(array_at(bytes, 0x180)),
            chip_id: array_at(bytes, 0x1a0),
            committed_tcb: TcbBytes(array_at(bytes, 0x1e0)),
            current_version: version_at(bytes, 0x1e8),
            committed_version: version_at(bytes, 0x1ec),
            launch_tcb: TcbBytes(array_at(bytes, 0x1f0)),
            signature: ReportSignature { r: array_at(bytes, SIGNED_BYTES), s: array_at(bytes, SIGNED_BYTES + 72) },
        })
    }

    /// The bytes of the report.
    pub fn encode(&self) -> [u8; REPORT_BYTES] {
        let mut out = [0; REPORT_BYTES];
        let mut put = |offset: usize, field: &[u8]| out[offset..offset + field.len()].copy_from_slice(field);
        put(0x00, &self.version.number().to_le_bytes());
        put(0x04, &self.guest_svn.to_le_bytes());
        put(0x08, &self.policy.0.to_le_bytes());
        put(0x10, &self.family_id);
        put(0x20, &self.image_id);
        put(0x30, &self.vmpl.to_le_bytes());
        put(0x34, &self.signature_algo.to_le_bytes());
        put(0x38, &self.current_tcb.0);
        put(0x40, &self.platform_info.0.to_le_bytes());
        put(FLAGS, &self.flags().to_le_bytes());
        put(0x50, &self.report_data);
        put(0x90, &self.measurement);
        put(0xc0, &self.host_data);
        put(0xe0, &self.id_key_digest);
        put(0x110, &self.author_key_digest);
        put(0x140, &self.report_id);
        put(0x160, &self.report_id_ma);
        put(0x180, &self.reported_tcb.0);
        if let Some(cpuid) = self.version.cpuid() {
            put(CPUID, &[cpuid.family, cpuid.model, cpuid.stepping]);
        }
        put(0x1a0, &self.chip_id);
        put(0x1e0, &self.committed_tcb.0);
        let (current, committed) = (self.current_version, self.committed_version);
        put(0x1e8, &[current.build, current.minor, current.major]);
        put(0x1ec, &[committed.build, committed.minor, committed.major]);
        put(0x1f0, &self.launch_tcb.0);
        if let Some(mitigations) = self.version.mitigations() {
            put(MITIGATIONS, &mitigations.launch.to_le_bytes());
            put(MITIGATIONS + 8, &mitigations.current.to_le_bytes());
        }
        put(SIGNED_BYTES, &self.signature.r);
        put(SIGNED_BYTES + 72, &self.signature.s);
        out
    }

    fn flags(&self) -> u32 {
        let signing_key = match self.signing_key {
            SigningKey::Vcek => 0,
            SigningKey::Vlek => 1,
            SigningKey::None => 7,
        };
        u32::from(self.author_key_en) | u32::from(self.mask_chip_key) << 1 | signing_key << 2
    }
}

fn decode_version(bytes: &[u8; REPORT_BYTES]) -> Result<Version, SnpDecodeError> {
    let [family, model, stepping] = array_at(bytes, CPUID);
    let cpuid = Cpuid { family, model, stepping };
    let mitigations = Mitigations { launch: u64_at(bytes, MITIGATIONS), current: u64_at(bytes, MITIGATIONS + 8) };
    match u32_at(bytes, 0) {
        2 => Ok(Version::V2),
        3 => Ok(Version::V3(cpuid)),
        5 => Ok(Version::V5(cpuid, mitigations)),
        version => Err(SnpDecodeError::Version { version }),
    }
}

/// What the specification of `version` reserves is zero.
fn require_zero(bytes: &[u8; REPORT_BYTES], version: Version) -> Result<(), SnpDecodeError> {
    let (after_tcb, after_launch) = match version {
        Version::V2 => (CPUID, MITIGATIONS),
        Version::V3(_) => (CPUID + 3, MITIGATIONS),
        Version::V5(..) => (CPUID + 3, MITIGATIONS + 16),
    };
    let reserved = [
        (0x4c..0x50, "the bytes after the flags"),
        (after_tcb..0x1a0, "the bytes before CHIP_ID"),
        (0x1eb..0x1ec, "the byte after CURRENT_MAJOR"),
        (0x1ef..0x1f0, "the byte after COMMITTED_MAJOR"),
        (after_launch..SIGNED_BYTES, "the bytes before SIGNATURE"),
        (SIGNED_BYTES + 144..REPORT_BYTES, "SIGNATURE"),
    ];
    for (range, field) in reserved {
        let offset = range.start;
        if bytes[range].iter().any(|byte| *byte != 0) {
            return Err(SnpDecodeError::Reserved { field, offset });
        }
    }
    Ok(())
}

fn version_at(bytes: &[u8; REPORT_BYTES], offset: usize) -> FirmwareVersion {
    let [build, minor, major] = array_at(bytes, offset);
    FirmwareVersion { major, minor, build }
}

fn u32_at(bytes: &[u8; REPORT_BYTES], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

fn u64_at(bytes: &[u8; REPORT_BYTES], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

/// Offsets are constants of this file, none near the end.
fn array_at<const N: usize>(bytes: &[u8; REPORT_BYTES], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("a range of N bytes")
}

const FLAGS: usize = 0x48;
const CPUID: usize = 0x188;
const MITIGATIONS: usize = 0x1f8;
