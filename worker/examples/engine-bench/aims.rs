//! What the figures should be. A figure beyond its aim by more than a tenth, which a machine that is not quite idle may
//! cost, is an error at the end, after all figures.

/// How much worse than its aim a figure may be.
const TOLERANCE: f64 = 1.1;

/// The figures that miss their aims.
#[derive(Default)]
pub struct Aims(Vec<String>);

impl Aims {
    pub fn at_least(&mut self, what: &str, found: f64, aim: f64) {
        if found * TOLERANCE < aim {
            self.0.push(format!("{what} is {found:.3}, must be at least {aim:.3}"));
        }
    }

    pub fn at_most(&mut self, what: &str, found: f64, aim: f64) {
        if found > aim * TOLERANCE {
            self.0.push(format!("{what} is {found:.4}, must be at most {aim:.4}"));
        }
    }

    /// A figure that has nothing to do with how busy the machine is.
    pub fn miss(&mut self, what: String) {
        self.0.push(what);
    }

    pub fn missed(self) -> Result<(), String> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(self.0.join("; ")),
        }
    }
}
