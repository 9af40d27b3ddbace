//! Reads the fields of a capsule's value, in order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::CapsuleError;
use crate::wire::varint;

#[derive(Clone)]
pub(super) struct Reader<'a> {
    pub(super) kind: u64,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(kind: u64, value: &'a [u8]) -> Self {
        Self { kind, rest: value }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// A variable-length integer, as RFC 9484's capsules have it.
    pub(super) fn varint(&mut self, field: &'static str) -> Result<u64, CapsuleError> {
        let (value, len) = varint::read(self.rest).ok_or(self.short(field))?;
        self.rest = &self.rest[len..];
        Ok(value)
    }

    /// A variable-length integer of one of our own capsules, which must have its shortest form: a proof covers a
    /// capsule's bytes, so there is one way only to write them.
    pub(super) fn own_varint(&mut self, field: &'static str) -> Result<u64, CapsuleError> {
        let before = self.rest.len();
        let value = self.varint(field)?;
        if before - self.rest.len() == varint::len(value) { Ok(value) } else { Err(self.bad(field)) }
    }

    /// An integer of one of our own capsules that is at most `max`.
    pub(super) fn at_most(&mut self, max: u64, field: &'static str) -> Result<u64, CapsuleError> {
        let value = self.own_varint(field)?;
        if value <= max { Ok(value) } else { Err(self.bad(field)) }
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], CapsuleError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(self.short(field))?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, CapsuleError> {
        self.array(field).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, CapsuleError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Bytes with their number in front, at most `max`.
    pub(super) fn counted(&mut self, max: usize, field: &'static str) -> Result<&'a [u8], CapsuleError> {
        let len = self.at_most(max as u64, field)? as usize;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(self.short(field))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// An IP version and an address of it.
    pub(super) fn address(&mut self, field: &'static str) -> Result<IpAddr, CapsuleError> {
        match self.u8(field)? {
            4 => self.ipv4(field).map(IpAddr::V4),
            6 => self.ipv6(field).map(IpAddr::V6),
            _ => Err(self.bad(field)),
        }
    }

    pub(super) fn ipv4(&mut self, field: &'static str) -> Result<Ipv4Addr, CapsuleError> {
        self.array::<4>(field).map(Ipv4Addr::from)
    }

    pub(super) fn ipv6(&mut self, field: &'static str) -> Result<Ipv6Addr, CapsuleError> {
        self.array::<16>(field).map(Ipv6Addr::from)
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// All that is left, at most `max` bytes, as UTF-8.
    pub(super) fn text(&mut self, max: usize, field: &'static str) -> Result<String, CapsuleError> {
        let bytes = self.rest();
        match std::str::from_utf8(bytes) {
            Ok(text) if bytes.len() <= max => Ok(text.to_owned()),
            Ok(_) | Err(_) => Err(self.bad(field)),
        }
    }

    /// The value must end here.
    pub(super) fn end(&self) -> Result<(), CapsuleError> {
        if self.is_empty() { Ok(()) } else { Err(CapsuleError::Trailing { kind: self.kind }) }
    }

    pub(super) fn bad(&self, field: &'static str) -> CapsuleError {
        CapsuleError::BadValue { kind: self.kind, field }
    }

    fn short(&self, field: &'static str) -> CapsuleError {
        CapsuleError::Short { kind: self.kind, field }
    }
}
