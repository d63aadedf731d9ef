//! The report of an SGX enclave: the quoting enclave has one in every quote.

/// Size of the structure.
pub const ENCLAVE_REPORT_BYTES: usize = 384;

/// REPORTBODY ("Intel SDM", volume 3D, table "Layout of REPORT"). Reserved fields are kept, since the signature covers them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EnclaveReport {
    /// All bytes.
    pub bytes: [u8; ENCLAVE_REPORT_BYTES],
}

impl EnclaveReport {
    /// Security version of the processor.
    pub fn cpu_svn(&self) -> [u8; 16] {
        self.field(0)
    }

    /// MISCSELECT, in the order of the bytes.
    pub fn misc_select(&self) -> [u8; 4] {
        self.field(Self::MISC_SELECT)
    }

    /// ATTRIBUTES: flags and XFRM, in the order of the bytes.
    pub fn attributes(&self) -> [u8; 16] {
        self.field(Self::ATTRIBUTES)
    }

    /// Measurement of the enclave.
    pub fn mr_enclave(&self) -> [u8; 32] {
        self.field(64)
    }

    /// Digest of the key that signed the enclave.
    pub fn mr_signer(&self) -> [u8; 32] {
        self.field(Self::MR_SIGNER)
    }

    /// Product of that signer.
    pub fn isv_prod_id(&self) -> u16 {
        u16::from_le_bytes(self.field(Self::ISV_PROD_ID))
    }

    /// Security version of that product.
    pub fn isv_svn(&self) -> u16 {
        u16::from_le_bytes(self.field(Self::ISV_SVN))
    }

    /// What the enclave put in.
    pub fn report_data(&self) -> [u8; 64] {
        self.field(Self::REPORT_DATA)
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes[at..at + N].try_into().expect("the range has N bytes")
    }

    /// Offset of [`misc_select`](Self::misc_select).
    pub const MISC_SELECT: usize = 16;
    /// Offset of [`attributes`](Self::attributes).
    pub const ATTRIBUTES: usize = 48;
    /// Offset of [`mr_signer`](Self::mr_signer).
    pub const MR_SIGNER: usize = 128;
    /// Offset of [`isv_prod_id`](Self::isv_prod_id).
    pub const ISV_PROD_ID: usize = 256;
    /// Offset of [`isv_svn`](Self::isv_svn).
    pub const ISV_SVN: usize = 258;
    /// Offset of [`report_data`](Self::report_data).
    pub const REPORT_DATA: usize = 320;
}

impl std::fmt::Debug for EnclaveReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnclaveReport")
            .field("mr_enclave", &self.mr_enclave())
            .field("mr_signer", &self.mr_signer())
            .field("isv_prod_id", &self.isv_prod_id())
            .field("isv_svn", &self.isv_svn())
            .finish_non_exhaustive()
    }
}
