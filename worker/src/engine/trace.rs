//! What an engine claims of one pass, tensor by tensor, so that two engines that differ are told apart at the first
//! tensor, row and element (section 10 of docs/canonical-arithmetic.md).

use std::fmt;

use half::f16;
use serde::{Deserialize, Serialize};

use super::error::EngineError;
use super::Engine;
use crate::canon::commit::{merkle_root, Digest};
use crate::canon::{Point, Run, Tap};

/// Positions that are computed together: everything that they store is in memory at once.
const CHUNK: usize = 32;

/// What one engine computed for a sequence of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The model's id.
    #[serde(with = "hex::serde")]
    pub model: Digest,
    /// What computed, for people.
    pub engine: String,
    /// The positions' tokens.
    pub tokens: Vec<u32>,
    /// Positions of which some store was not finite.
    pub marked: Vec<u32>,
    /// In the order in which a decoder computes them.
    pub claims: Vec<TensorClaim>,
}

/// One tensor over all positions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorClaim {
    pub tensor: TensorName,
    /// Merkle root over `rows`.
    #[serde(with = "hex::serde")]
    pub root: Digest,
    /// BLAKE3 of each position's elements, little-endian.
    pub rows: Vec<HexBytes>,
    /// The elements themselves, where they were to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<HexBytes>>,
}

/// Bytes, in hexadecimal digits in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HexBytes(#[serde(with = "hex::serde")] pub Vec<u8>);

impl AsRef<[u8]> for HexBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Which tensor of a decoder. As text `LAYER.NAME`, as `3.query`; `final.x` and `final.logits` after the last layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TensorName {
    Layer(u32, Point),
    /// What logits are products of; halves.
    X,
    /// `[vocab]`.
    Logits,
}

impl TensorName {
    /// Whether elements are halves; otherwise they are f32.
    pub fn is_half(self) -> bool {
        !matches!(self, Self::Logits | Self::Layer(_, Point::Middle | Point::Residual))
    }
}

fn point_name(point: Point) -> &'static str {
    match point {
        Point::AttnNorm => "attn_norm",
        Point::Query => "query",
        Point::Key => "key",
        Point::Value => "value",
        Point::Attn => "attn",
        Point::Middle => "middle",
        Point::FfnNorm => "ffn_norm",
        Point::Act => "act",
        Point::Residual => "residual",
    }
}

impl fmt::Display for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(layer, point) => write!(f, "{layer}.{}", point_name(*point)),
            Self::X => f.write_str("final.x"),
            Self::Logits => f.write_str("final.logits"),
        }
    }
}

impl std::str::FromStr for TensorName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let layer = |text: &str| {
            let (layer, name) = text.split_once('.')?;
            let point = Point::ALL.into_iter().find(|point| point_name(*point) == name)?;
            Some(Self::Layer(layer.parse().ok()?, point))
        };
        let found = match text {
            "final.x" => Some(Self::X),
            "final.logits" => Some(Self::Logits),
            _ => layer(text),
        };
        found.ok_or_else(|| {
            let names = Point::ALL.map(point_name).join(", ");
            format!(
                "tensor is {text:?}, must be LAYER.NAME with NAME one of {names}; or final.x or final.logits"
            )
        })
    }
}

impl TryFrom<String> for TensorName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<TensorName> for String {
    fn from(name: TensorName) -> Self {
        name.to_string()
    }
}

impl Engine {
    /// Computes all positions of `tokens`, and claims each tensor. Elements are kept of those that `keep` names.
    pub fn trace(
        &self,
        model: Digest,
        engine: String,
        tokens: &[u32],
        keep: &dyn Fn(TensorName) -> bool,
    ) -> Result<Trace, EngineError> {
        let (context, vocab) = (self.arch().context as usize, self.arch().vocab as usize);
        if tokens.is_empty() || tokens.len() > context {
            return Err(EngineError::invalid(
                "tokens",
                tokens.len(),
                format!("1 to the context of {context}"),
            ));
        }
        self.check_tokens("tokens", tokens)?;
        let layers = 0..self.arch().layers;
        let names = layers.flat_map(|layer| Point::ALL.map(|point| TensorName::Layer(layer, point)));
        let mut claims: Vec<TensorClaim> = names
            .chain([TensorName::X, TensorName::Logits])
            .map(|tensor| TensorClaim {
                tensor,
                root: [0; 32],
                rows: Vec::new(),
                values: keep(tensor).then(Vec::new),
            })
            .collect();
        let pages = self.take_pages(tokens.len())?;
        let (mut marked, mut first) = (Vec::new(), 0);
        for chunk in tokens.chunks(CHUNK) {
            let run = Run { tokens: chunk, first, pages: &pages };
            let mut heard = claims.iter_mut();
            let mut sink = |layer: u32, point: Point, values: &[f32]| {
                let claim = heard.next().filter(|claim| claim.tensor == TensorName::Layer(layer, point));
                claim
                    .unwrap_or_else(|| unreachable!("taps come in the order of the layers"))
                    .add(chunk.len(), values);
            };
            let mut tap = Tap { wants: &|_, _| true, sink: &mut sink };
            let step = self.device.forward(&[run], Some(&mut tap))?;
            let mut logits = vec![0.0; chunk.len() * vocab];
            self.device.logits(&step.x_final, &mut logits)?;
            let x: Vec<f32> = step.x_final.iter().map(|x| x.to_f32()).collect();
            for (claim, values) in heard.zip([&x, &logits]) {
                claim.add(chunk.len(), values);
            }
            let bad = step.finite.iter().enumerate().filter(|(_, finite)| !**finite);
            marked.extend(bad.map(|(i, _)| (first + i) as u32));
            first += chunk.len();
        }
        for claim in &mut claims {
            claim.root = merkle_root(&claim.rows);
        }
        Ok(Trace { model, engine, tokens: tokens.to_vec(), marked, claims })
    }
}

impl TensorClaim {
    /// Takes in the elements of the next `rows` positions.
    fn add(&mut self, rows: usize, values: &[f32]) {
        for row in values.chunks_exact(values.len() / rows) {
            let bytes: Vec<u8> = if self.tensor.is_half() {
                row.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()
            } else {
                row.iter().flat_map(|x| x.to_le_bytes()).collect()
            };
            self.rows.push(HexBytes(blake3::hash(&bytes).as_bytes().to_vec()));
            if let Some(values) = &mut self.values {
                values.push(HexBytes(bytes));
            }
        }
    }
}

/// Where two traces differ first.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference {
    /// They are of different models, or of different tokens from this position on: nothing else can be compared.
    Model,
    Tokens {
        position: usize,
    },
    /// This tensor, and of it this position.
    Row {
        tensor: TensorName,
        position: usize,
        /// Positions of it that differ.
        rows: usize,
        /// The first element that differs; not known where a trace did not keep them.
        element: Option<Element>,
    },
    /// Only in which positions are marked as not finite.
    Marked {
        position: u32,
    },
    /// One has tensors that the other has not, or a root that is not its rows'.
    Shape {
        tensor: TensorName,
    },
}

/// An element that differs, with its value and its bits in each trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    pub index: usize,
    pub values: [f32; 2],
    pub bits: [String; 2],
    /// Elements of the row that differ.
    pub count: usize,
}

/// Compares two traces; none where they agree in everything.
pub fn difference(a: &Trace, b: &Trace) -> Option<Difference> {
    if a.model != b.model {
        return Some(Difference::Model);
    }
    let length = a.tokens.len().max(b.tokens.len());
    if let Some(position) = (0..length).find(|i| a.tokens.get(*i) != b.tokens.get(*i)) {
        return Some(Difference::Tokens { position });
    }
    for i in 0..a.claims.len().max(b.claims.len()) {
        match (a.claims.get(i), b.claims.get(i)) {
            (Some(x), Some(y)) if x.tensor == y.tensor => {
                let whole = |claim: &TensorClaim| {
                    claim.rows.len() == length && claim.root == merkle_root(&claim.rows)
                };
                if !whole(x) || !whole(y) {
                    return Some(Difference::Shape { tensor: x.tensor });
                }
                if x.root != y.root {
                    return Some(first_row(x, y));
                }
            }
            (Some(one), _) | (None, Some(one)) => return Some(Difference::Shape { tensor: one.tensor }),
            (None, None) => {}
        }
    }
    let only_one = |(a, b): (&Trace, &Trace)| a.marked.iter().copied().find(|i| !b.marked.contains(i));
    let position = [(a, b), (b, a)].into_iter().filter_map(only_one).min()?;
    Some(Difference::Marked { position })
}

fn first_row(x: &TensorClaim, y: &TensorClaim) -> Difference {
    let differing = || (0..x.rows.len()).filter(|i| x.rows[*i] != y.rows[*i]);
    let position = differing().next().unwrap_or_else(|| unreachable!("roots differ, so some row does"));
    let row = |claim: &TensorClaim| claim.values.as_ref().and_then(|values| values.get(position)).cloned();
    let element = row(x).zip(row(y)).and_then(|(a, b)| first_element(x.tensor, &a.0, &b.0));
    Difference::Row { tensor: x.tensor, position, rows: differing().count(), element }
}

fn first_element(tensor: TensorName, a: &[u8], b: &[u8]) -> Option<Element> {
    let size = if tensor.is_half() { 2 } else { 4 };
    let pairs = || a.chunks_exact(size).zip(b.chunks_exact(size));
    let (index, (x, y)) = pairs().enumerate().find(|(_, (x, y))| x != y)?;
    let value = |bytes: &[u8]| match *bytes {
        [a, b] => f16::from_le_bytes([a, b]).to_f32(),
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        _ => unreachable!("chunks of 2 or 4"),
    };
    let bits = |bytes: &[u8]| hex::encode(bytes.iter().rev().copied().collect::<Vec<u8>>());
    let count = pairs().filter(|(x, y)| x != y).count();
    Some(Element { index, values: [value(x), value(y)], bits: [bits(x), bits(y)], count })
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model => f.write_str("the models are different ones"),
            Self::Tokens { position } => write!(f, "the tokens differ from position {position} on"),
            Self::Marked { position } => {
                write!(f, "all tensors agree; only one of them marks position {position} as not finite")
            }
            Self::Shape { tensor } => {
                write!(f, "{tensor}: missing in one of them, of another length, or its root is not that of its rows")
            }
            Self::Row { tensor, position, rows, element } => {
                write!(f, "first difference: tensor {tensor}, position {position}")?;
                match element {
                    Some(Element { index, values: [a, b], bits: [x, y], count }) => {
                        writeln!(f, ", element {index}: {a:e} (0x{x}) and {b:e} (0x{y})")?;
                        write!(f, "of this row {count} elements differ, of this tensor {rows} rows")
                    }
                    None => {
                        writeln!(f, " (of this tensor {rows} rows differ)")?;
                        write!(f, "record both with --values {tensor} to see the element")
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::canon::random::RandomDecoder;
    use crate::cpu::Isa;
    use crate::engine::Options;
    use crate::model::synthetic::small;

    fn trace(engine: &Engine, tokens: &[u32]) -> Trace {
        engine.trace([7; 32], "some".into(), tokens, &|_| true).unwrap()
    }

    #[test]
    fn engines_that_agree_and_what_is_changed_is_found() {
        let model = Arc::new(RandomDecoder::new(small(), 5));
        let tokens: Vec<u32> = (0..70).map(|i| i * 37 % 288).collect();
        let right = trace(&Engine::reference(model.clone()).unwrap(), &tokens);
        assert_eq!(right.claims.len(), 2 * 9 + 2);
        let options = Options { isa: Isa::detect(), threads: 2, huge_pages: false, positions: Some(256) };
        let other = trace(&Engine::new(model, options).unwrap(), &tokens);
        assert_eq!(difference(&right, &other), None);

        for (tensor, position, index, byte) in [
            (TensorName::Layer(1, Point::Key), 66, 3, 6),
            (TensorName::Layer(0, Point::Middle), 0, 63, 252),
            (TensorName::Logits, 69, 287, 4 * 287),
        ] {
            let mut wrong = right.clone();
            let claim = wrong.claims.iter_mut().find(|claim| claim.tensor == tensor).unwrap();
            let values = claim.values.as_mut().unwrap();
            values[position].0[byte] ^= 1;
            claim.rows[position] = HexBytes(blake3::hash(&values[position].0).as_bytes().to_vec());
            claim.root = merkle_root(&claim.rows);
            let Some(Difference::Row { tensor: at, position: row, rows: 1, element: Some(element) }) =
                difference(&right, &wrong)
            else {
                panic!("{:?}", difference(&right, &wrong))
            };
            assert_eq!((at, row, element.index, element.count), (tensor, position, index, 1));
            wrong.claims.iter_mut().for_each(|claim| claim.values = None);
            let unknown = difference(&right, &wrong).unwrap().to_string();
            assert!(unknown.contains(&format!("--values {tensor}")), "{unknown}");
        }
        let mut torn = right.clone();
        torn.claims[4].rows.pop();
        assert_eq!(difference(&right, &torn), Some(Difference::Shape { tensor: right.claims[4].tensor }));
        torn = right.clone();
        torn.claims.pop();
        assert_eq!(difference(&torn, &right), Some(Difference::Shape { tensor: TensorName::Logits }));
        let marked = Trace { marked: vec![5], ..right.clone() };
        assert_eq!(difference(&right, &marked), Some(Difference::Marked { position: 5 }));
        let longer = Trace { tokens: [&tokens[..], &[1]].concat(), ..right.clone() };
        assert_eq!(difference(&right, &longer), Some(Difference::Tokens { position: 70 }));
    }

    #[test]
    fn names_read_back() {
        for name in [TensorName::X, TensorName::Logits, TensorName::Layer(12, Point::FfnNorm)] {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        for bad in ["", "3", "query", "-1.query", "3.queries", "final"] {
            assert!(bad.parse::<TensorName>().unwrap_err().contains("must be LAYER.NAME"), "{bad}");
        }
    }
}
