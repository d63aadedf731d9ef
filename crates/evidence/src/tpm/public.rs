//! TPMT_PUBLIC (section 12.2.4): the public area of a key.

use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::{
    Curve, HashAlg, TpmDecodeError, alg_id,
    wire::{Reader, Writer},
};

/// The public area of an RSA or ECC key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    /// Hash of the name and of the policy; SHA-256, SHA-384 or SHA-512.
    pub name_alg: HashAlg,
    /// What the key may do.
    pub attributes: ObjectAttributes,
    /// Digest of the policy, may be empty.
    pub auth_policy: Vec<u8>,
    /// Parameters and the public key itself.
    pub params: PublicParams,
}

/// TPMA_OBJECT (section 8.3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ObjectAttributes(pub u32);

/// TPMU_PUBLIC_PARMS and TPMU_PUBLIC_ID (sections 12.2.3.7, 12.2.3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicParams {
    /// TPMS_ECC_PARMS, TPMS_ECC_POINT.
    Ecc {
        /// Cipher that protects children; of a storage key only.
        symmetric: Symmetric,
        /// Scheme that the key is bound to.
        scheme: KeyScheme,
        /// The curve.
        curve: Curve,
        /// Big-endian.
        x: Vec<u8>,
        /// Big-endian.
        y: Vec<u8>,
    },
    /// TPMS_RSA_PARMS, TPM2B_PUBLIC_KEY_RSA.
    Rsa {
        /// Cipher that protects children; of a storage key only.
        symmetric: Symmetric,
        /// Scheme that the key is bound to.
        scheme: KeyScheme,
        /// Bits of the modulus.
        bits: u16,
        /// As encoded: 0 stands for 65537.
        exponent: u32,
        /// The modulus, big-endian.
        n: Vec<u8>,
    },
}

/// TPMT_SYM_DEF_OBJECT (section 11.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symmetric {
    /// None.
    Null,
    /// AES in CFB mode.
    AesCfb {
        /// Bits of the key.
        bits: u16,
    },
}

/// TPMT_RSA_SCHEME, TPMT_ECC_SCHEME (sections 11.2.4.2, 11.2.5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyScheme {
    /// Not bound to a scheme.
    Null,
    /// ECDSA.
    Ecdsa(HashAlg),
    /// RSASSA-PKCS1-v1_5.
    Rsassa(HashAlg),
    /// RSASSA-PSS.
    Rsapss(HashAlg),
}

impl Public {
    /// The public area in `bytes`, which are the whole structure.
    ///
    /// What parses encodes to the same bytes again, so that [`Public::name`] is the name of exactly `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmDecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u16("key type")?;
        let name_alg = match reader.u16("name algorithm")? {
            alg_id::SHA1 => return Err(TpmDecodeError::Unsupported { field: "name algorithm", id: alg_id::SHA1 }),
            id => HashAlg::decode("name algorithm", id)?,
        };
        let public = Self {
            name_alg,
            attributes: ObjectAttributes(reader.u32("object attributes")?),
            auth_policy: reader.sized("authPolicy", MAX_DIGEST)?.to_vec(),
            params: match kind {
                alg_id::RSA => PublicParams::decode_rsa(&mut reader)?,
                alg_id::ECC => PublicParams::decode_ecc(&mut reader)?,
                id => return Err(TpmDecodeError::Unsupported { field: "key type", id }),
            },
        };
        reader.finish("TPMT_PUBLIC")?;
        Ok(public)
    }

    /// The encoding.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.params {
            PublicParams::Ecc { .. } => alg_id::ECC,
            PublicParams::Rsa { .. } => alg_id::RSA,
        };
        let head = Writer::new().u16(kind).u16(self.name_alg.id()).u32(self.attributes.0).sized(&self.auth_policy);
        self.params.encode(head).finish()
    }

    /// The name (Part 1, section 16): identifier of the name algorithm, then its digest of the encoded public area.
    pub fn name(&self) -> Vec<u8> {
        let bytes = self.encode();
        let digest = match self.name_alg {
            // `parse` refuses SHA-1; a value built by hand gets the name that no TPM gives, which no check accepts.
            HashAlg::Sha1 => Vec::new(),
            HashAlg::Sha256 => Sha256::digest(bytes).to_vec(),
            HashAlg::Sha384 => Sha384::digest(bytes).to_vec(),
            HashAlg::Sha512 => Sha512::digest(bytes).to_vec(),
        };
        Writer::new().u16(self.name_alg.id()).bytes(&digest).finish()
    }
}

impl PublicParams {
    fn decode_ecc(reader: &mut Reader<'_>) -> Result<Self, TpmDecodeError> {
        let symmetric = Symmetric::decode(reader)?;
        let scheme = match reader.u16("ECC scheme")? {
            alg_id::NULL => KeyScheme::Null,
            alg_id::ECDSA => KeyScheme::Ecdsa(HashAlg::decode("scheme hash", reader.u16("scheme hash")?)?),
            id => return Err(TpmDecodeError::Unsupported { field: "ECC scheme", id }),
        };
        let curve = Curve::decode(reader.u16("curve")?)?;
        match reader.u16("KDF scheme")? {
            alg_id::NULL => {}
            id => return Err(TpmDecodeError::Unsupported { field: "KDF scheme", id }),
        }
        let mut coordinate = |field| reader.sized(field, MAX_ECC).map(<[u8]>::to_vec);
        Ok(Self::Ecc { symmetric, scheme, curve, x: coordinate("point x")?, y: coordinate("point y")? })
    }

    fn decode_rsa(reader: &mut Reader<'_>) -> Result<Self, TpmDecodeError> {
        Ok(Self::Rsa {
            symmetric: Symmetric::decode(reader)?,
            scheme: match reader.u16("RSA scheme")? {
                alg_id::NULL => KeyScheme::Null,
                alg_id::RSASSA => KeyScheme::Rsassa(HashAlg::decode("scheme hash", reader.u16("scheme hash")?)?),
                alg_id::RSAPSS => KeyScheme::Rsapss(HashAlg::decode("scheme hash", reader.u16("scheme hash")?)?),
                id => return Err(TpmDecodeError::Unsupported { field: "RSA scheme", id }),
            },
            bits: match reader.u16("RSA key bits")? {
                bits @ (2048 | 3072 | 4096) => bits,
                id => return Err(TpmDecodeError::Unsupported { field: "RSA key bits", id }),
            },
            exponent: reader.u32("RSA exponent")?,
            n: reader.sized("RSA modulus", MAX_RSA)?.to_vec(),
        })
    }

    fn encode(&self, writer: Writer) -> Writer {
        match self {
            Self::Ecc { symmetric, scheme, curve, x, y } => {
                scheme.encode(symmetric.encode(writer)).u16(curve.id()).u16(alg_id::NULL).sized(x).sized(y)
            }
            Self::Rsa { symmetric, scheme, bits, exponent, n } => {
                scheme.encode(symmetric.encode(writer)).u16(*bits).u32(*exponent).sized(n)
            }
        }
    }
}

impl Symmetric {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, TpmDecodeError> {
        match reader.u16("symmetric algorithm")? {
            alg_id::NULL => return Ok(Self::Null),
            alg_id::AES => {}
            id => return Err(TpmDecodeError::Unsupported { field: "symmetric algorithm", id }),
        }
        let bits = reader.u16("symmetric key bits")?;
        if !matches!(bits, 128 | 192 | 256) {
            return Err(TpmDecodeError::Unsupported { field: "symmetric key bits", id: bits });
        }
        match reader.u16("symmetric mode")? {
            alg_id::CFB => Ok(Self::AesCfb { bits }),
            id => Err(TpmDecodeError::Unsupported { field: "symmetric mode", id }),
        }
    }

    fn encode(self, writer: Writer) -> Writer {
        match self {
            Self::Null => writer.u16(alg_id::NULL),
            Self::AesCfb { bits } => writer.u16(alg_id::AES).u16(bits).u16(alg_id::CFB),
        }
    }
}

impl KeyScheme {
    fn encode(self, writer: Writer) -> Writer {
        match self {
            Self::Null => writer.u16(alg_id::NULL),
            Self::Ecdsa(hash) => writer.u16(alg_id::ECDSA).u16(hash.id()),
            Self::Rsassa(hash) => writer.u16(alg_id::RSASSA).u16(hash.id()),
            Self::Rsapss(hash) => writer.u16(alg_id::RSAPSS).u16(hash.id()),
        }
    }
}

impl ObjectAttributes {
    /// `fixedTPM`: the key cannot leave this TPM.
    pub const FIXED_TPM: u32 = 1 << 1;
    /// `fixedParent`: the key cannot move to another parent.
    pub const FIXED_PARENT: u32 = 1 << 4;
    /// `sensitiveDataOrigin`: the TPM made the private key itself.
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    /// `userWithAuth`: use needs only the key's password.
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    /// `adminWithPolicy`: administration needs the key's policy.
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    /// `noDA`: use that fails or is cut off does not count towards a lockout.
    pub const NO_DA: u32 = 1 << 10;
    /// `restricted`: signs only what the TPM itself made.
    pub const RESTRICTED: u32 = 1 << 16;
    /// `decrypt`.
    pub const DECRYPT: u32 = 1 << 17;
    /// `sign`.
    pub const SIGN: u32 = 1 << 18;
    /// What an attestation key of this project has, no more and no less. Its authorisation value is empty, so there is nothing for
    /// the TPM's protection against guessing to protect; without `noDA` a few power cuts would lock the key for hours.
    pub const ATTESTATION_KEY: Self = Self(
        Self::FIXED_TPM
            | Self::FIXED_PARENT
            | Self::SENSITIVE_DATA_ORIGIN
            | Self::USER_WITH_AUTH
            | Self::NO_DA
            | Self::RESTRICTED
            | Self::SIGN,
    );

    /// The key cannot leave this TPM.
    pub fn fixed_tpm(self) -> bool {
        self.has(Self::FIXED_TPM)
    }

    /// The key cannot move to another parent.
    pub fn fixed_parent(self) -> bool {
        self.has(Self::FIXED_PARENT)
    }

    /// The TPM made the private key itself.
    pub fn sensitive_data_origin(self) -> bool {
        self.has(Self::SENSITIVE_DATA_ORIGIN)
    }

    /// The key works only on what the TPM itself made.
    pub fn is_restricted(self) -> bool {
        self.has(Self::RESTRICTED)
    }

    /// The key decrypts.
    pub fn is_decrypt(self) -> bool {
        self.has(Self::DECRYPT)
    }

    /// The key signs.
    pub fn is_sign(self) -> bool {
        self.has(Self::SIGN)
    }

    fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

impl std::fmt::Debug for ObjectAttributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObjectAttributes({:#010x})", self.0)
    }
}

/// SHA-512.
const MAX_DIGEST: usize = 64;
/// P-521.
const MAX_ECC: usize = 66;
/// RSA-4096.
const MAX_RSA: usize = 512;
