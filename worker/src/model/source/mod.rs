//! What a model's files mean, whatever their format: an architecture, a tokenizer, and which tensor fills which slot.
//!
//! Every setting that could change the arithmetic must be known and every tensor used, so that nothing is passed over in
//! silence.

mod files;
pub mod gguf;
pub mod hf;
pub mod safetensors;

use std::collections::BTreeMap;

pub use files::Files;

use super::error::{invalid, ModelError, Result};
use super::family::Family;
use super::gguf::TensorData;
use super::kind::{Kind, Spec};
use super::manifest::{Role, Slot};
use crate::canon::{Architecture, EncoderArchitecture};

/// A model before its import. The parts borrow from the files.
#[derive(Debug)]
pub struct Source<'a, A: Kind = Architecture> {
    /// Its own name, for people.
    pub name: String,
    pub arch: A,
    pub tokenizer: Spec<A>,
    /// In the manifest's order.
    pub parts: Vec<Part<'a>>,
}

/// A model of either kind before its import.
#[derive(Debug)]
pub enum AnySource<'a> {
    Decoder(Source<'a>),
    Encoder(Source<'a, EncoderArchitecture>),
}

/// A slot of the model and the tensor of the file that fills it.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    pub slot: Slot,
    /// The tensor's name in the file.
    pub name: String,
    pub data: TensorData<'a>,
    /// For rotary rows stored in interleaved order, the elements of a head.
    pub interleaved: Option<usize>,
}

impl Part<'_> {
    /// The row of the file that is row `row` of the model. A bias has its elements where a matrix has rows.
    pub fn source_row(&self, row: usize) -> usize {
        self.interleaved.map_or(row, |dim| interleaved_row(row, dim))
    }
}

/// Where a file with interleaved pairs keeps row `row` of heads of `dim` rows: the pair (i, i + d/2) of a head lies side
/// by side, as rows 2i and 2i + 1.
pub fn interleaved_row(row: usize, dim: usize) -> usize {
    let (head, at) = (row / dim, row % dim);
    head * dim + at % (dim / 2) * 2 + at / (dim / 2)
}

/// The row of the model that row `row` of such a file is: the inverse of [`interleaved_row`].
pub fn half_split_row(row: usize, dim: usize) -> usize {
    let (head, at) = (row / dim, row % dim);
    head * dim + at % 2 * (dim / 2) + at / 2
}

/// Whether the rows, or elements, of a tensor are those of rotary pairs.
pub fn is_rotary(slot: &Slot) -> bool {
    matches!(slot.role, Role::Q | Role::K | Role::QBias | Role::KBias)
}

/// Tensors by name.
pub type Tensors<'a> = BTreeMap<String, TensorData<'a>>;

/// Whether q, k and v of the first layer have biases, and norms: as its tensors say, where the family allows it.
fn optional_tensors(
    family: &Family,
    name: fn(&Slot) -> String,
    tensors: &Tensors<'_>,
) -> Result<(bool, bool)> {
    let has = |role| {
        let name = name(&Slot { role, layer: Some(0), rows: 1, cols: 1 });
        let present = tensors.contains_key(&name);
        (name, present)
    };
    for (role, presence) in [(Role::QBias, family.qkv_bias), (Role::QNorm, family.qk_norm)] {
        let (name, present) = has(role);
        if !presence.allows(present) {
            return Err(if present {
                invalid("tensor", name, format!("not a part of {}", family.hf))
            } else {
                ModelError::missing(format!("tensor {name}"))
            });
        }
    }
    Ok((has(Role::QBias).1, has(Role::QNorm).1))
}

/// The parts of a checked architecture, out of `tensors`, of which none may be left. `interleaved` are the elements of a
/// head, where rotary rows are stored so.
pub(in crate::model) fn parts<'a, A: Kind>(
    arch: &A,
    mut tensors: Tensors<'a>,
    name: fn(&Slot) -> String,
    interleaved: Option<usize>,
) -> Result<Vec<Part<'a>>> {
    arch.check()?;
    let parts = arch
        .slots()
        .into_iter()
        .map(|slot| {
            let name = name(&slot);
            let data = tensors.remove(&name).ok_or_else(|| ModelError::missing(format!("tensor {name}")))?;
            if (data.rows, data.cols) != (slot.rows, slot.cols) {
                let shape = |rows: usize, cols: usize| format!("{rows} rows of {cols}");
                return Err(invalid(
                    format!("shape of tensor {name}"),
                    shape(data.rows, data.cols),
                    format!("must be {}", shape(slot.rows, slot.cols)),
                ));
            }
            let interleaved = interleaved.filter(|_| is_rotary(&slot));
            Ok(Part { slot, name, data, interleaved })
        })
        .collect::<Result<Vec<_>>>()?;
    match tensors.keys().next() {
        Some(name) => Err(invalid("tensor", name, "not a part of this architecture")),
        None => Ok(parts),
    }
}

/// A window that sees the whole context is none.
fn window(positions: Option<u32>, context: u32) -> Option<u32> {
    positions.filter(|positions| *positions < context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_and_back() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(|row| interleaved_row(row, 6)), [0, 2, 4, 1, 3, 5]);
        assert!((0..40).all(|row| half_split_row(interleaved_row(row, 10), 10) == row));
    }
}
