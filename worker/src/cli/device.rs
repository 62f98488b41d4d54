//! What computes: a card, or the processor. The results are the same.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Once};

use serde::{Deserialize, Serialize};

use crate::cuda::{cards, Card};
use crate::engine::{Engine, EngineError, Options};
use crate::model::Model;

/// Which device is to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The first card that can, else the processor.
    #[default]
    Auto,
    Cpu,
    /// The card of this number, and nothing else.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok();
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", card)) => number(card).map(Self::Cuda).ok_or_else(|| bound(text)),
            _ => Err(bound(text)),
        }
    }
}

fn bound(text: &str) -> String {
    format!("device is {text:?}, must be auto, cpu, cuda or cuda:NUMBER")
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(card) => write!(f, "cuda:{card}"),
        }
    }
}

impl Device {
    /// An engine on this device; `options` are for the processor.
    pub fn engine(self, model: &Arc<Model>, options: Options) -> Result<Engine, EngineError> {
        match self {
            Self::Cpu => Engine::new(model.clone(), options),
            Self::Cuda(number) => {
                let found = cards().map_err(|error| absent(number, &error.to_string()))?;
                let card = found.iter().find(|card| card.ordinal == number);
                on(model, card.ok_or_else(|| absent(number, "there is no such card"))?, options)
            }
            Self::Auto => match first_card() {
                None => Engine::new(model.clone(), options),
                Some(card) => on(model, &card, options).or_else(|error| {
                    tracing::warn!(card = card.name, %error, "the card is not used; computing on the processor");
                    Engine::new(model.clone(), options)
                }),
            },
        }
    }
}

/// The first card that can compute. Says once why there is none.
fn first_card() -> Option<Card> {
    static SAID: Once = Once::new();
    match cards() {
        Ok(cards) => cards.into_iter().next(),
        Err(why) => {
            SAID.call_once(|| {
                // Of NVIDIA's kernel module: whoever has it wants its card used.
                if ["/dev/nvidiactl", "/proc/driver/nvidia"].iter().any(|path| Path::new(path).exists()) {
                    tracing::warn!(%why, "this machine's card is not used; computing on the processor");
                } else {
                    tracing::info!(%why, "computing on the processor");
                }
            });
            None
        }
    }
}

fn on(model: &Arc<Model>, card: &Card, options: Options) -> Result<Engine, EngineError> {
    let spare = model.clone();
    // Whatever the card has begun has room on the processor, and so at least one context.
    let enough = |positions: &usize| *positions >= model.arch().context as usize;
    let spare_options = Options { positions: options.positions.filter(enough), ..options };
    let engine = Engine::cuda(&**model, card, options.positions)?
        .with_spare(move || Engine::new(spare.clone(), spare_options));
    tracing::info!(card = card.name, model = model.name(), "computing on the card");
    Ok(engine)
}

fn absent(number: usize, why: &str) -> EngineError {
    EngineError::Invalid {
        field: "device",
        value: format!("cuda:{number}"),
        bound: format!("another: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for (text, device) in [("auto", Device::Auto), ("cpu", Device::Cpu), ("cuda:3", Device::Cuda(3))] {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for bad in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0"] {
            assert!(bad.parse::<Device>().unwrap_err().contains("must be auto, cpu"), "{bad}");
        }
    }
}
