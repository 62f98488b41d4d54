//! Figures as they are printed, and the aims beside them.

use std::collections::BTreeMap;
use std::time::Duration;

use deepnode_worker::canon::Architecture;
use deepnode_worker::cuda::{Loaded, Spent};

use crate::audit::{self, Audited};
use crate::cases::{Case, ALONE, BATCH, PROMPT};

/// What a step at batch 1 reads of its weights, of what copying reads and writes.
const DECODE: f64 = 0.85;
/// Tokens a second of sixteen sequences, of those of one.
const TOGETHER: f64 = 10.0;
/// Operations of a prefill, of the peak.
const PREFILL: f64 = 0.6;
/// How many times longer producing takes than an audit.
const AUDIT: f64 = 15.0;

/// What a card does at best, where it was measured.
#[derive(Clone, Copy, Default)]
pub struct Peaks {
    /// Bytes a second.
    pub copying: Option<f64>,
    /// Operations a second.
    pub ffma: Option<f64>,
}

/// How fast a case is.
pub struct Rates {
    sequences: f64,
    rows: f64,
    /// Bytes of weights that a step reads.
    bytes: f64,
    /// Operations of the products in a prefill's layers. Attention, 2% more at 512 rows, is not counted.
    flops: f64,
    /// Seconds of a step that gives each sequence a token, and of a prefill of all prompts.
    step: f64,
    prefill: f64,
}

impl Rates {
    /// Of the medians of steps and of prefills.
    pub fn new(arch: &Architecture, case: &Case, steps: Vec<Duration>, prefills: Vec<Duration>) -> Self {
        let [layers, width, q, kv, ffn, vocab] =
            [arch.layers, arch.width, arch.q_rows(), arch.kv_rows(), arch.ffn, arch.vocab].map(f64::from);
        let in_layers = layers * width * (2.0 * q + 2.0 * kv + 3.0 * ffn);
        let rows = case.prompts.iter().sum::<usize>() as f64;
        Self {
            sequences: case.prompts.len() as f64,
            rows,
            bytes: 2.0 * (in_layers + width * vocab),
            flops: 2.0 * rows * in_layers,
            step: median(steps),
            prefill: median(prefills),
        }
    }

    fn tokens_a_second(&self) -> f64 {
        self.sequences / self.step
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64)
}

pub const CASES: &str =
    "case     overlap result     prefill tokens/s  TFLOP/s  decode tokens/s  GB/s of weights";

/// A line under [`CASES`].
pub fn case(name: &str, overlap: bool, same: bool, rates: &Rates) -> String {
    format!(
        "{name:8} {overlap:<7} {:10} {:16.1} {:8.2} {:16.1} {:16.1}",
        result(same),
        rates.rows / rates.prefill,
        rates.flops / rates.prefill / 1e12,
        rates.tokens_a_second(),
        rates.bytes / rates.step / 1e9,
    )
}

pub fn result(same: bool) -> &'static str {
    if same {
        "same"
    } else {
        "DIFFERENT"
    }
}

/// What kernels take up, a line each, and whether any spills.
pub fn loaded(kernels: &[Loaded]) -> String {
    let mut text = String::from("kernel         registers  local bytes\n");
    for Loaded { kernel, registers, local } in kernels {
        let spills = if *local > 0 { "  SPILLS" } else { "" };
        text += &format!("{kernel:14} {registers:9} {local:12}{spills}\n");
    }
    let spilling = kernels.iter().filter(|kernel| kernel.local > 0).count();
    text + &aim(format!("{spilling} of {} kernels spill (aim 0)", kernels.len()), spilling == 0)
}

/// Where the time of `rounds` equal pieces of work went, by kernel, the longest first.
pub fn spent(what: &str, spent: &Spent, rounds: usize) -> String {
    let us = |time: Duration| time.as_secs_f64() * 1e6 / rounds as f64;
    let all: f64 = spent.values().map(|(_, time)| us(*time)).sum();
    let mut rows: Vec<_> =
        spent.iter().map(|(kernel, (count, time))| (*kernel, count / rounds, us(*time))).collect();
    rows.sort_by(|a, b| b.2.total_cmp(&a.2));
    rows.push(("all", rows.iter().map(|row| row.1).sum(), all));
    let mut text = format!("{what}\nkernel         launches         us   share");
    for (kernel, launches, us) in rows {
        text += &format!("\n{kernel:14} {launches:8} {us:10.1} {:6.1}%", 100.0 * us / all);
    }
    text
}

/// The aims, and how far they are reached; what could not be measured is said.
pub fn aims(rates: &BTreeMap<&str, Rates>, peaks: Peaks, audits: &[Audited]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |what: String, of: &str, share: Option<f64>, least: f64| {
        let aim_is = format!("of {of} (aim {:.0}%)", 100.0 * least);
        lines.push(match share {
            Some(share) => aim(format!("{what}, {:.1}% {aim_is}", 100.0 * share), share >= least),
            None => format!("{what}, not known how much {aim_is}: that was not measured"),
        });
    };
    if let Some(alone) = rates.get(ALONE) {
        let rate = alone.bytes / alone.step;
        let what = format!("decode {ALONE}: {:.1} GB/s of weights", rate / 1e9);
        line(what, "copying", peaks.copying.map(|copying| rate / copying), DECODE);
    }
    if let Some(prompt) = rates.get(PROMPT) {
        let rate = prompt.flops / prompt.prefill;
        let what = format!("prefill {PROMPT}: {:.2} TFLOP/s", rate / 1e12);
        line(what, "the FFMA peak", peaks.ffma.map(|ffma| rate / ffma), PREFILL);
    }
    if let (Some(alone), Some(batch)) = (rates.get(ALONE), rates.get(BATCH)) {
        let times = batch.tokens_a_second() / alone.tokens_a_second();
        let what = format!("batch 16 / batch 1: {times:.1}x (aim {TOGETHER:.0}x)");
        lines.push(aim(what, times >= TOGETHER));
    }
    for Audited { output, producing, auditing } in audits {
        let times = producing.as_secs_f64() / auditing.as_secs_f64();
        let what = format!(
            "audit of {output} tokens after {}: {:.1} ms, 1/{times:.1} of producing them (aim 1/{AUDIT:.0})",
            audit::PROMPT,
            auditing.as_secs_f64() * 1e3
        );
        lines.push(aim(what, times >= AUDIT));
    }
    lines
}

fn aim(what: String, met: bool) -> String {
    format!("{what}: {}", if met { "met" } else { "MISSED" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::models;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Rates of each case of the model that the aims are about: each step takes `step` ms, each prefill `prefill`.
    fn rates(steps: [u64; 3], prefill: u64) -> BTreeMap<&'static str, Rates> {
        let models = models();
        let model = models.iter().find(|model| model.aimed).unwrap();
        let of = |(case, step): (&Case, u64)| {
            (case.name, Rates::new(&model.arch, case, vec![ms(step)], vec![ms(prefill)]))
        };
        model.cases.iter().zip(steps).map(of).collect()
    }

    #[test]
    fn aims_are_met_and_missed() {
        let peaks = Peaks { copying: Some(2.9e12), ffma: Some(66e12) };
        let audits = [Audited { output: 128, producing: ms(150), auditing: ms(10) }];
        let met = [
            "decode 1b-1: 2471.5 GB/s of weights, 85.2% of copying (aim 85%): met",
            "prefill 1b-512: 39.86 TFLOP/s, 60.4% of the FFMA peak (aim 60%): met",
            "batch 16 / batch 1: 16.0x (aim 10x): met",
            "audit of 128 tokens after 64: 10.0 ms, 1/15.0 of producing them (aim 1/15): met",
        ];
        assert_eq!(aims(&rates([1, 1, 1], 25), peaks, &audits), met);
        let audits = [Audited { output: 128, producing: ms(140), auditing: ms(10) }];
        let missed = [
            "decode 1b-1: 1235.7 GB/s of weights, 42.6% of copying (aim 85%): MISSED",
            "prefill 1b-512: 38.32 TFLOP/s, 58.1% of the FFMA peak (aim 60%): MISSED",
            "batch 16 / batch 1: 8.0x (aim 10x): MISSED",
            "audit of 128 tokens after 64: 10.0 ms, 1/14.0 of producing them (aim 1/15): MISSED",
        ];
        assert_eq!(aims(&rates([2, 4, 1], 26), peaks, &audits), missed);
    }

    #[test]
    fn what_was_not_measured_is_said() {
        let lines = aims(&rates([1, 1, 1], 25), Peaks::default(), &[]);
        assert_eq!(lines.len(), 3);
        let wanted = "decode 1b-1: 2471.5 GB/s of weights, not known how much of copying (aim 85%): \
                      that was not measured";
        assert_eq!(lines[0], wanted);
        assert!(aims(&BTreeMap::new(), Peaks::default(), &[]).is_empty());
    }

    #[test]
    fn cases_have_their_columns() {
        let line = case(ALONE, true, true, &rates([1, 1, 1], 25)[ALONE]);
        assert_eq!(
            line,
            "1b-1     true    same                  480.0     0.93           1000.0           2471.5"
        );
        assert_eq!(line.len(), CASES.len());
        assert!(case(ALONE, false, false, &rates([1, 1, 1], 25)[ALONE]).contains("false   DIFFERENT"));
        assert_eq!(median([5, 1, 9].map(ms).to_vec()), 0.005);
    }

    #[test]
    fn kernels_times_are_shares_of_all() {
        let all = Spent::from([("scores", (20, ms(2))), ("gate_1", (20, ms(6)))]);
        let text = "a step\n\
                    kernel         launches         us   share\n\
                    gate_1               10     3000.0   75.0%\n\
                    scores               10     1000.0   25.0%\n\
                    all                  20     4000.0  100.0%";
        assert_eq!(spent("a step", &all, 2), text);
    }

    #[test]
    fn spills_are_named() {
        let mut kernels =
            [("qkv_1", 128), ("top", 32)].map(|(kernel, registers)| Loaded { kernel, registers, local: 0 });
        let text = "kernel         registers  local bytes\n\
                    qkv_1                128            0\n\
                    top                   32            0\n\
                    0 of 2 kernels spill (aim 0): met";
        assert_eq!(loaded(&kernels), text);
        kernels[0].local = 16;
        let text = loaded(&kernels);
        assert!(text.contains("\nqkv_1                128           16  SPILLS\n"), "{text}");
        assert!(text.ends_with("\n1 of 2 kernels spill (aim 0): MISSED"), "{text}");
    }
}
