//! A strict, bounded reader of GGUF (versions 2 and 3, little-endian). It borrows from the file's bytes; every
//! count, length and offset is checked against what is there before anything is reserved for it.
//!
//! Layout: magic, version, tensor count, pair count; the key-value pairs; one record a tensor (name, dimensions
//! fastest first, type, offset); padding to `general.alignment`; the tensors' data.

mod writer;

use std::collections::{BTreeMap, BTreeSet};

use crate::model::dequant::Encoding;
use crate::model::error::{invalid, within, ModelError, Result};

pub use writer::{GgufWriter, TensorInfo};

const MAX_TENSORS: u64 = 1 << 16;
const MAX_PAIRS: u64 = 1 << 12;
const MAX_KEY: u64 = 1 << 8;
const MAX_STRING: u64 = 1 << 20;
const MAX_ARRAY: u64 = 1 << 22;
const MAX_DIMENSION: u64 = 1 << 30;
const DEFAULT_ALIGNMENT: u64 = 32;

/// A parsed file. Pairs and tensors are unique by name.
#[derive(Debug)]
pub struct Gguf<'a> {
    pub pairs: BTreeMap<&'a str, Value<'a>>,
    pub tensors: BTreeMap<&'a str, TensorData<'a>>,
}

/// The value of a pair.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Int(i128),
    Float(f64),
    Bool(bool),
    Str(&'a str),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strings(Vec<&'a str>),
    /// An array of numbers of another kind, none of which is read here.
    Other,
}

/// A tensor in the file: `rows` of `cols` elements, row-major. A vector has one row.
#[derive(Clone, Copy, Debug)]
pub struct TensorData<'a> {
    pub encoding: Encoding,
    pub rows: usize,
    pub cols: usize,
    pub bytes: &'a [u8],
}

impl TensorData<'_> {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.cols / self.encoding.block_len() * self.encoding.block_bytes()
    }
}

impl<'a> Gguf<'a> {
    /// Parses a whole file.
    pub fn parse(file: &'a [u8]) -> Result<Gguf<'a>> {
        let mut input = Input { file, at: 0 };
        if input.take(4, "gguf magic")? != b"GGUF" {
            return Err(invalid("gguf magic", hex::encode(&file[..4]), "must be \"GGUF\""));
        }
        let version = input.u32("gguf version")?;
        if version.swap_bytes() == 3 {
            return Err(invalid("gguf byte order", "big-endian", "must be little-endian"));
        }
        within("gguf version", version.into(), 2, 3)?;
        let tensor_count = within("gguf tensor count", input.u64("gguf tensor count")?, 1, MAX_TENSORS)?;
        let pair_count = within("gguf pair count", input.u64("gguf pair count")?, 1, MAX_PAIRS)?;

        let mut pairs = BTreeMap::new();
        for n in 0..pair_count {
            let key = input.string(&format!("gguf key {n}"), MAX_KEY)?;
            let value = input.value(key)?;
            if pairs.insert(key, value).is_some() {
                return Err(invalid("gguf key", key, "occurs twice"));
            }
        }
        let alignment = match pairs.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::Int(n)) if matches!(n, 8..=65536) && n.count_ones() == 1 => *n as u64,
            Some(other) => {
                return Err(invalid(
                    "general.alignment",
                    format!("{other:?}"),
                    "must be a power of two, 8 to 65536",
                ))
            }
        };

        let mut records = Vec::new();
        let mut names = BTreeSet::new();
        for n in 0..tensor_count {
            let record = input.record(n)?;
            if !names.insert(record.name) {
                return Err(invalid("gguf tensor", record.name, "occurs twice"));
            }
            records.push(record);
        }

        let data_start = (input.at as u64).next_multiple_of(alignment);
        let data = file.get(data_start as usize..).ok_or_else(|| {
            invalid(
                "gguf data section",
                format!("at byte {data_start}"),
                format!("the file has {} bytes", file.len()),
            )
        })?;
        let tensors = locate(&mut records, data, alignment)?;
        Ok(Gguf { pairs, tensors })
    }

    fn get<T>(&self, key: &str, want: &str, read: impl FnOnce(&Value<'a>) -> Option<T>) -> Result<Option<T>> {
        match self.pairs.get(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(invalid(key, brief(value), format!("must be {want}"))),
            },
        }
    }

    /// The unsigned integer under `key`, `min` to `max`; None if there is none.
    pub fn integer(&self, key: &str, min: u32, max: u32) -> Result<Option<u32>> {
        self.get(key, &format!("an integer, {min} to {max}"), |value| match value {
            Value::Int(n) => u32::try_from(*n).ok().filter(|n| (min..=max).contains(n)),
            _ => None,
        })
    }

    /// The number under `key`, which must be an f32.
    pub fn float(&self, key: &str) -> Result<Option<f32>> {
        self.get(key, "an f32", |value| match value {
            Value::Float(x) if f64::from(*x as f32) == *x => Some(*x as f32),
            _ => None,
        })
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "a boolean", |value| if let Value::Bool(b) = value { Some(*b) } else { None })
    }

    pub fn string(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key, "a string", |value| if let Value::Str(s) = value { Some(*s) } else { None })
    }

    pub fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.get(key, "an array of strings", |value| match value {
            Value::Strings(s) => Some(s.clone()),
            _ => None,
        })
    }

    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.get(key, "an array of integers", |value| match value {
            Value::Ints(n) => Some(n.clone()),
            _ => None,
        })
    }

    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.get(key, "an array of f32", |value| match value {
            Value::Floats(x) => Some(x.clone()),
            _ => None,
        })
    }
}

/// `Result<Option<T>>` of a required key.
pub(crate) fn required<T>(key: &str, value: Result<Option<T>>) -> Result<T> {
    value?.ok_or_else(|| ModelError::missing(key))
}

fn brief(value: &Value<'_>) -> String {
    match value {
        Value::Int(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Str(s) => format!("{:?}", s.chars().take(40).collect::<String>()),
        Value::Ints(_) | Value::Floats(_) | Value::Strings(_) | Value::Other => "an array".to_string(),
    }
}

struct Record<'a> {
    name: &'a str,
    encoding: Encoding,
    rows: usize,
    cols: usize,
    offset: u64,
    bytes: u64,
}

/// Cuts the data section into the tensors: aligned, inside, no two overlapping, nothing behind the last.
fn locate<'a>(
    records: &mut [Record<'a>],
    data: &'a [u8],
    alignment: u64,
) -> Result<BTreeMap<&'a str, TensorData<'a>>> {
    records.sort_by_key(|r| r.offset);
    let mut tensors = BTreeMap::new();
    let mut end = 0u64;
    for r in records.iter() {
        let field = format!("offset of tensor {}", r.name);
        if r.offset % alignment != 0 {
            return Err(invalid(field, r.offset, format!("must be a multiple of {alignment}")));
        }
        if r.offset < end {
            return Err(invalid(field, r.offset, format!("the tensor before it ends at {end}")));
        }
        end = r.offset.checked_add(r.bytes).filter(|end| *end <= data.len() as u64).ok_or_else(|| {
            invalid(
                field,
                format!("{} and its size {}", r.offset, r.bytes),
                format!("the data section has {} bytes", data.len()),
            )
        })?;
        let bytes = &data[r.offset as usize..end as usize];
        tensors.insert(r.name, TensorData { encoding: r.encoding, rows: r.rows, cols: r.cols, bytes });
    }
    if data.len() as u64 > end.next_multiple_of(alignment) {
        return Err(invalid(
            "gguf data section",
            format!("{} bytes", data.len()),
            format!("the tensors end at {end}"),
        ));
    }
    Ok(tensors)
}

struct Input<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn left(&self) -> u64 {
        (self.file.len() - self.at) as u64
    }

    fn take(&mut self, len: u64, field: &str) -> Result<&'a [u8]> {
        if len > self.left() {
            return Err(invalid(
                field,
                format!("{len} bytes at byte {}", self.at),
                format!("the file ends at {}", self.file.len()),
            ));
        }
        let start = self.at;
        self.at += len as usize;
        Ok(&self.file[start..self.at])
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, field)?);
        Ok(out)
    }

    fn u32(&mut self, field: &str) -> Result<u32> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn u64(&mut self, field: &str) -> Result<u64> {
        self.array(field).map(u64::from_le_bytes)
    }

    fn string(&mut self, field: &str, max: u64) -> Result<&'a str> {
        let len = self.u64(field)?;
        if len > max {
            return Err(invalid(format!("length of {field}"), len, format!("at most {max}")));
        }
        let bytes = self.take(len, field)?;
        std::str::from_utf8(bytes).map_err(|e| invalid(field, e, "must be UTF-8"))
    }

    fn value(&mut self, key: &str) -> Result<Value<'a>> {
        let kind = self.u32(key)?;
        match kind {
            8 => Ok(Value::Str(self.string(key, MAX_STRING)?)),
            9 => self.array_value(key),
            _ => {
                let bytes = self.take(scalar_size(kind, key)?, key)?;
                scalar(kind, bytes, key)
            }
        }
    }

    fn array_value(&mut self, key: &str) -> Result<Value<'a>> {
        let kind = self.u32(key)?;
        let len = self.u64(key)?;
        // A string takes at least the eight bytes of its length.
        let least = if kind == 8 { 8 } else { scalar_size(kind, key)? };
        let max = MAX_ARRAY.min(self.left() / least);
        if len > max {
            return Err(invalid(format!("length of {key}"), len, format!("at most {max} here")));
        }
        if kind == 8 {
            let strings: Result<Vec<_>> = (0..len).map(|_| self.string(key, MAX_STRING)).collect();
            return strings.map(Value::Strings);
        }
        let bytes = self.take(len * least, key)?;
        if kind == 6 {
            let (floats, _) = bytes.as_chunks::<4>();
            return Ok(Value::Floats(floats.iter().map(|x| f32::from_le_bytes(*x)).collect()));
        }
        let (numbers, _) = bytes.as_chunks::<4>();
        Ok(match kind {
            4 => Value::Ints(numbers.iter().map(|n| u32::from_le_bytes(*n).into()).collect()),
            5 => Value::Ints(numbers.iter().map(|n| i32::from_le_bytes(*n).into()).collect()),
            _ => Value::Other,
        })
    }

    fn record(&mut self, n: u64) -> Result<Record<'a>> {
        let name = self.string(&format!("name of gguf tensor {n}"), MAX_KEY)?;
        let of = |what: &str| format!("{what} of tensor {name}");
        let dimensions = within(of("dimension count"), self.u32(&of("dimension count"))?.into(), 1, 2)?;
        let field = of("dimensions");
        let cols = within(&field, self.u64(&field)?, 1, MAX_DIMENSION)?;
        let rows = if dimensions == 2 { within(&field, self.u64(&field)?, 1, MAX_DIMENSION)? } else { 1 };
        let kind = self.u32(&of("type"))?;
        let encoding = Encoding::from_ggml(kind).ok_or_else(|| {
            let known = Encoding::ALL.map(|e| format!("{e:?} ({})", e.ggml())).join(", ");
            invalid(of("type"), kind, format!("known are {known}"))
        })?;
        let offset = self.u64(&of("offset"))?;
        let block = encoding.block_len() as u64;
        if cols % block != 0 {
            return Err(invalid(field, cols, format!("must be a multiple of {encoding:?}'s block, {block}")));
        }
        // At most 2^30 * 2^30 elements of at most 4 bytes: no overflow.
        let bytes = cols / block * encoding.block_bytes() as u64 * rows;
        Ok(Record { name, encoding, rows: rows as usize, cols: cols as usize, offset, bytes })
    }
}

fn scalar_size(kind: u32, key: &str) -> Result<u64> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(invalid(format!("type of {key}"), kind, "not a GGUF value type allowed here")),
    }
}

/// One number of `scalar_size(kind)` bytes.
fn scalar<'a>(kind: u32, bytes: &[u8], key: &str) -> Result<Value<'a>> {
    let mut wide = [0u8; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let unsigned = u64::from_le_bytes(wide);
    let unused = 64 - 8 * bytes.len() as u32;
    Ok(match kind {
        0 | 2 | 4 | 10 => Value::Int(unsigned.into()),
        1 | 3 | 5 | 11 => Value::Int(((unsigned << unused) as i64 >> unused).into()),
        6 => Value::Float(f32::from_bits(unsigned as u32).into()),
        12 => Value::Float(f64::from_bits(unsigned)),
        7 if unsigned < 2 => Value::Bool(unsigned == 1),
        _ => return Err(invalid(key, unsigned, "a boolean must be 0 or 1")),
    })
}
