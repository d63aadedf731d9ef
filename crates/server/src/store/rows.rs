//! Values as columns: signed 64-bit integers, texts and bytes.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Result, StoreError, sql::Row};

/// DER certificates as a JSON list of base64.
pub(super) fn chain_to_text(chain: &[Vec<u8>]) -> String {
    let list: Vec<String> = chain.iter().map(|der| STANDARD.encode(der)).collect();
    serde_json::to_string(&list).expect("a list of strings always serialises")
}

/// Reads the columns of one row and says which one is not readable.
pub(super) struct Columns<'a> {
    row: &'a Row,
    what: String,
}

impl<'a> Columns<'a> {
    pub(super) fn new(row: &'a Row, table: &str, key: &str) -> Self {
        let id = row.text(key).ok().flatten().unwrap_or_default();
        Self { row, what: format!("{table} {id}") }
    }

    pub(super) fn bad(&self, detail: impl Into<String>) -> StoreError {
        StoreError::Row { what: self.what.clone(), detail: detail.into() }
    }

    pub(super) fn text(&self, column: &str) -> Result<String> {
        self.opt_text(column)?.ok_or_else(|| self.absent(column))
    }

    pub(super) fn opt_text(&self, column: &str) -> Result<Option<String>> {
        self.row.text(column).map_err(|e| self.bad(e.to_string()))
    }

    pub(super) fn blob(&self, column: &str) -> Result<Vec<u8>> {
        self.opt_blob(column)?.ok_or_else(|| self.absent(column))
    }

    pub(super) fn opt_blob(&self, column: &str) -> Result<Option<Vec<u8>>> {
        self.row.bytes(column).map_err(|e| self.bad(e.to_string()))
    }

    pub(super) fn bytes32(&self, column: &str) -> Result<[u8; 32]> {
        self.blob(column)?.try_into().map_err(|_| self.bad(format!("{column} is not 32 bytes")))
    }

    pub(super) fn uint(&self, column: &str) -> Result<u64> {
        let value = self.int(column)?.ok_or_else(|| self.absent(column))?;
        u64::try_from(value).map_err(|_| self.bad(format!("{column} is negative")))
    }

    pub(super) fn opt_uint(&self, column: &str) -> Result<Option<u64>> {
        Ok(self.int(column)?.and_then(|v| u64::try_from(v).ok()))
    }

    pub(super) fn opt_i32(&self, column: &str) -> Result<Option<i32>> {
        Ok(self.int(column)?.and_then(|v| i32::try_from(v).ok()))
    }

    fn int(&self, column: &str) -> Result<Option<i64>> {
        self.row.int(column).map_err(|e| self.bad(e.to_string()))
    }

    fn absent(&self, column: &str) -> StoreError {
        self.bad(format!("{column} is absent"))
    }

    pub(super) fn parsed<T: std::str::FromStr>(&self, column: &str) -> Result<T> {
        self.text(column)?.parse().map_err(|_| self.bad(format!("{column} is not of its kind")))
    }

    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T> {
        serde_json::from_str(&self.text(column)?).map_err(|e| self.bad(format!("{column}: {e}")))
    }

    pub(super) fn chain(&self, column: &str) -> Result<Vec<Vec<u8>>> {
        let list: Vec<String> = self.json(column)?;
        let decoded: std::result::Result<_, _> = list.iter().map(|text| STANDARD.decode(text)).collect();
        decoded.map_err(|e| self.bad(format!("{column}: {e}")))
    }
}
