//! A decoder on a device: weights, pages of keys and values, and steps over them.

use std::collections::hash_map::{Entry, HashMap};

use half::f16;
use parking_lot::Mutex;

use super::args::{Address, Cache, Choice, Matrix, Row, WIDTHS};
use super::gpu::{Gpu, GpuError, Launch};
use super::pack::{pack, packed_len, padded, paired, SIDE};
use super::plan::{self, Buffers, LayerPlaces, Places, Plan, Width, MAX_TOP_K};
use crate::canon::constants::BLOCK;
use crate::canon::device::{Device, DeviceError, Forward, Point, Run, Tap, PAGE};
use crate::canon::rope::RopeTable;
use crate::canon::{Architecture, Decoder, LayerWeights, SamplingParams, Tensor};

/// Rows of logits that are computed together.
const HEAD_ROWS: usize = 64;
/// Halves that are packed before they are sent.
const PIECE: usize = 8 << 20;

/// What a device's memory is used for, besides the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Most rows of a step, at least 1, less where memory is short; runs with more take several steps.
    pub rows: usize,
    /// Pages of 128 positions; `None`: as many as there is memory for, less a tenth.
    pub pages: Option<usize>,
}

impl Default for Room {
    fn default() -> Self {
        Self { rows: 512, pages: None }
    }
}

/// A decoder on a device.
pub struct Cuda<G: Gpu> {
    arch: Architecture,
    rows: usize,
    pages: usize,
    state: Mutex<State<G>>,
}

struct State<G: Gpu> {
    /// Steps that were recorded, by width and by how many blocks they attend to side by side. Before the device: fields are
    /// dropped in order.
    steps: HashMap<(Width, usize), G::Recording>,
    gpu: G,
    plan: Plan,
    /// The first failure: what memory holds after one is unknown.
    failed: Option<DeviceError>,
}

impl From<GpuError> for DeviceError {
    fn from(error: GpuError) -> Self {
        Self(error.to_string())
    }
}

impl<G: Gpu> Cuda<G> {
    /// Copies the model's weights, which must have the shapes of its architecture, to the device.
    pub fn new(mut gpu: G, model: &dyn Decoder, room: Room) -> Result<Self, DeviceError> {
        let arch = model.arch().clone();
        if arch.head_dim as usize > 512 || arch.vocab > 1 << 20 || room.rows == 0 {
            return Err(DeviceError("head_dim above 512, vocab above 2^20 or no rows".into()));
        }
        let mut places = upload(&mut gpu, model)?;
        // Scores of a long context take much memory a row: an eighth of what is free, and a batch's rows in any case.
        let fit = gpu.free_bytes()? / 8 / Buffers::bytes_a_row(&arch);
        let rows = room.rows.min(fit.max(WIDTHS[WIDTHS.len() - 1]));
        let buffers = Buffers::new(&arch, rows, HEAD_ROWS, |bytes| gpu.alloc(bytes))?;
        let [key, value] = page_bytes(&arch);
        let page = (key + value) * arch.layers as usize;
        let pages = match room.pages {
            Some(pages) => pages,
            None => gpu.free_bytes()? / 10 * 9 / page,
        };
        if pages == 0 {
            return Err(DeviceError(format!("no memory for one page of {page} bytes")));
        }
        for layer in &mut places.layers {
            let (keys, values) = (gpu.alloc(pages * key)?, gpu.alloc(pages * value)?);
            layer.cache = Cache { keys, values, heads: arch.kv_heads, dim: arch.head_dim };
        }
        let plan = Plan { arch: arch.clone(), places, buffers };
        let state = State { steps: HashMap::new(), gpu, plan, failed: None };
        Ok(Self { arch, rows, pages, state: Mutex::new(state) })
    }

    /// Runs what must not be trusted, nor anything after it, once it has failed.
    fn attempt<T>(&self, work: impl FnOnce(&mut State<G>) -> Result<T, GpuError>) -> Result<T, DeviceError> {
        let mut state = self.state.lock();
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        work(&mut state).map_err(|error| {
            let error = DeviceError::from(error);
            state.failed = Some(error.clone());
            error
        })
    }

    /// Refuses what would read or write beyond the device's memory.
    fn check(&self, run: &Run<'_>) -> Result<(), DeviceError> {
        let end = run.first + run.tokens.len();
        let refuse = |what: String| Err(DeviceError(what));
        if run.tokens.is_empty() || end > self.arch.context as usize {
            return refuse(format!("{} tokens up to position {end}", run.tokens.len()));
        }
        if let Some(token) = run.tokens.iter().find(|token| **token >= self.arch.vocab) {
            return refuse(format!("token is {token}, must be below {}", self.arch.vocab));
        }
        let Some(pages) = run.pages.get(..end.div_ceil(PAGE)) else {
            return refuse(format!("{} pages for {end} positions", run.pages.len()));
        };
        match pages.iter().find(|page| **page as usize >= self.pages) {
            Some(page) => refuse(format!("page is {page}, must be below {}", self.pages)),
            None => Ok(()),
        }
    }
}

impl<G: Gpu> Device for Cuda<G> {
    fn arch(&self) -> &Architecture {
        &self.arch
    }

    fn pages(&self) -> usize {
        self.pages
    }

    fn forward(&self, runs: &[Run<'_>], tap: Option<&mut Tap<'_>>) -> Result<Forward, DeviceError> {
        runs.iter().try_for_each(|run| self.check(run))?;
        let rows: Vec<(usize, u32, usize)> = runs
            .iter()
            .enumerate()
            .flat_map(|(i, run)| run.tokens.iter().zip(run.first..).map(move |(token, at)| (i, *token, at)))
            .collect();
        let mut result = Forward::default();
        let wants = tap.as_ref().map(|tap| tap.wants);
        let mut tapped: Vec<(u32, Point, Vec<f32>)> = Vec::new();
        for chunk in rows.chunks(self.rows) {
            let step = StepInput::new(chunk, runs);
            let seen = self.attempt(|state| state.step(&step, wants, &mut result))?;
            if tapped.is_empty() {
                tapped = seen;
            } else {
                tapped.iter_mut().zip(seen).for_each(|(all, more)| all.2.extend(more.2));
            }
        }
        if let Some(tap) = tap {
            tapped.iter().for_each(|(layer, point, rows)| (tap.sink)(*layer, *point, rows));
        }
        Ok(result)
    }

    fn logits(&self, x_final: &[f16], logits: &mut [f32]) -> Result<(), DeviceError> {
        let (width, vocab) = (self.arch.width as usize, self.arch.vocab as usize);
        let rows = x_final.len() / width;
        assert!(x_final.len() == rows * width && logits.len() == rows * vocab);
        for (x, logits) in x_final.chunks(HEAD_ROWS * width).zip(logits.chunks_mut(HEAD_ROWS * vocab)) {
            self.attempt(|state| state.logits(x, logits))?;
        }
        Ok(())
    }

    fn sample(&self, x_final: &[f16], choices: &[(SamplingParams, u32)]) -> Result<Vec<u32>, DeviceError> {
        let width = self.arch.width as usize;
        assert_eq!(x_final.len(), choices.len() * width);
        let mut tokens = Vec::with_capacity(choices.len());
        for (x, choices) in x_final.chunks(HEAD_ROWS * width).zip(choices.chunks(HEAD_ROWS)) {
            tokens.extend(self.attempt(|state| state.sample(x, choices))?);
        }
        Ok(tokens)
    }

    fn copy_page(&self, from: u32, to: u32) -> Result<(), DeviceError> {
        if from.max(to) as usize >= self.pages {
            return Err(DeviceError(format!("pages are {from} and {to}, must be below {}", self.pages)));
        }
        self.attempt(|state| state.copy_page(from.into(), to.into()))
    }
}

/// Bytes of the keys and of the values of a page in one layer.
fn page_bytes(arch: &Architecture) -> [usize; 2] {
    let bytes = arch.kv_heads as usize * PAGE * padded(arch.head_dim as usize) * size_of::<f16>();
    [bytes, bytes]
}

/// Where to read the tensor of a tap.
enum Source {
    /// Rows of f32, of a padded length.
    Floats(Address),
    /// Rows of f16, of a padded length.
    Halves(Address),
    Cache(Cache),
}

/// The input of one step, as the device reads it.
struct StepInput {
    rows: Vec<Row>,
    pages: Vec<u32>,
}

impl StepInput {
    /// Of rows (run, token, position), those of a run one after another.
    fn new(rows: &[(usize, u32, usize)], runs: &[Run<'_>]) -> Self {
        let (mut pages, mut tables) = (Vec::new(), HashMap::new());
        let rows = rows
            .iter()
            .map(|(run, token, position)| {
                let table = *tables.entry(*run).or_insert_with(|| {
                    let last = rows.iter().filter(|row| row.0 == *run).map(|row| row.2).max();
                    let table = pages.len() as u32;
                    pages.extend_from_slice(&runs[*run].pages[..=last.unwrap_or(0) / PAGE]);
                    table
                });
                Row { token: *token, position: *position as u32, table }
            })
            .collect();
        Self { rows, pages }
    }

    /// Blocks of positions of the longest sequence.
    fn blocks(&self) -> usize {
        self.rows.iter().map(|row| row.position as usize / PAGE + 1).max().unwrap_or(0)
    }
}

impl<G: Gpu> State<G> {
    /// Computes a step, adds its rows to `result`, and answers what is wanted of its layers.
    fn step(
        &mut self,
        step: &StepInput,
        wants: Option<&(dyn Fn(u32, Point) -> bool + Sync)>,
        result: &mut Forward,
    ) -> Result<Vec<(u32, Point, Vec<f32>)>, GpuError> {
        let (rows, blocks) = (step.rows.len(), step.blocks());
        let buffers = self.plan.buffers.step;
        self.gpu.write(buffers.count, &(rows as u32).to_ne_bytes())?;
        self.gpu.write(buffers.rows, bytemuck::cast_slice(&step.rows))?;
        self.gpu.write(buffers.pages, bytemuck::cast_slice(&step.pages))?;
        let width = Width::of(rows);
        let mut seen = Vec::new();
        match (wants, width) {
            (Some(wants), _) => seen = self.tapped(step, width, wants)?,
            (None, Width::Many(_)) => self.gpu.run(&self.plan.step(width, blocks))?,
            (None, Width::Few(_)) => {
                let recording = match self.steps.entry((width, plan::split(blocks))) {
                    Entry::Occupied(recorded) => recorded.into_mut(),
                    Entry::Vacant(new) => new.insert(self.gpu.record(&self.plan.step(width, blocks))?),
                };
                self.gpu.repeat(recording)?;
            }
        }
        let width = self.plan.arch.width as usize;
        let mut x_final = vec![f16::ZERO; rows * padded(width)];
        let mut bad = vec![0u32; rows];
        self.gpu.read(&mut [
            (self.plan.buffers.x_final, bytemuck::cast_slice_mut(&mut x_final)),
            (buffers.bad, bytemuck::cast_slice_mut(&mut bad)),
        ])?;
        result.x_final.extend(unpadded(&x_final, width));
        result.finite.extend(bad.iter().map(|bad| *bad == 0));
        Ok(seen)
    }

    /// Runs a step kernel by kernel, and reads what is wanted in between.
    fn tapped(
        &mut self,
        step: &StepInput,
        width: Width,
        wants: &dyn Fn(u32, Point) -> bool,
    ) -> Result<Vec<(u32, Point, Vec<f32>)>, GpuError> {
        let blocks = step.blocks();
        let mut seen = Vec::new();
        self.gpu.run(&[self.plan.embed(width)])?;
        for layer in 0..self.plan.arch.layers {
            let launches = self.plan.layer(layer as usize, width, blocks);
            let mut rest = &launches[..];
            for point in Point::ALL.into_iter().filter(|point| wants(layer, *point)) {
                // Each point comes after a launch; the launches up to it may have run for the point before.
                let done = launches.len() - rest.len();
                let now: &[Launch];
                (now, rest) =
                    rest.split_at(plan::launches_until(point, &self.plan.arch).saturating_sub(done));
                self.gpu.run(now)?;
                seen.push((layer, point, self.read_point(step, layer as usize, point)?));
            }
            self.gpu.run(rest)?;
        }
        self.gpu.run(&[self.plan.finish(width)])?;
        Ok(seen)
    }

    fn read_point(&mut self, step: &StepInput, layer: usize, point: Point) -> Result<Vec<f32>, GpuError> {
        let b = &self.plan.buffers;
        let cache = self.plan.places.layers[layer].cache;
        let source = match point {
            Point::AttnNorm | Point::FfnNorm => Source::Halves(b.x),
            Point::Query => Source::Halves(b.q),
            Point::Key | Point::Value => Source::Cache(cache),
            Point::Attn => Source::Halves(b.attended),
            Point::Act => Source::Halves(b.gated),
            Point::Middle | Point::Residual => Source::Floats(b.h),
        };
        let (rows, len) = (step.rows.len(), point.len(&self.plan.arch));
        match source {
            Source::Floats(from) => {
                let mut all = vec![0f32; rows * padded(len)];
                self.gpu.read(&mut [(from, bytemuck::cast_slice_mut(&mut all))])?;
                Ok(unpadded(&all, len).collect())
            }
            Source::Halves(from) => {
                let mut all = vec![f16::ZERO; rows * padded(len)];
                self.gpu.read(&mut [(from, bytemuck::cast_slice_mut(&mut all))])?;
                Ok(unpadded(&all, len).map(f16::to_f32).collect())
            }
            Source::Cache(cache) => self.read_cache(step, cache, point == Point::Key),
        }
    }

    /// Keys or values at the step's positions, heads side by side.
    fn read_cache(&mut self, step: &StepInput, cache: Cache, keys: bool) -> Result<Vec<f32>, GpuError> {
        let (heads, dim) = (cache.heads as usize, cache.dim as usize);
        let page_len = heads * PAGE * padded(dim);
        let mut pages: HashMap<u32, Vec<f16>> = HashMap::new();
        let mut out = Vec::with_capacity(step.rows.len() * heads * dim);
        for row in &step.rows {
            let (position, table) = (row.position as usize, row.table as usize);
            let page = step.pages[table + position / PAGE];
            let halves = match pages.entry(page) {
                Entry::Occupied(read) => read.into_mut(),
                Entry::Vacant(unread) => {
                    let halves = unread.insert(vec![f16::ZERO; page_len]);
                    let base = if keys { cache.keys } else { cache.values };
                    let from = base + u64::from(page) * (page_len * size_of::<f16>()) as u64;
                    self.gpu.read(&mut [(from, bytemuck::cast_slice_mut(halves))])?;
                    halves
                }
            };
            let slot = position % PAGE;
            for head in 0..heads {
                let head_at = head * PAGE * padded(dim);
                out.extend((0..dim).map(|e| {
                    let at = if keys {
                        (e / SIDE * PAGE + slot) * SIDE + e % SIDE
                    } else {
                        slot * padded(dim) + e
                    };
                    halves[head_at + at].to_f32()
                }));
            }
        }
        Ok(out)
    }

    /// Writes rows of `x_final` for the head; answers how many.
    fn write_head(&mut self, x_final: &[f16]) -> Result<usize, GpuError> {
        let width = self.plan.arch.width as usize;
        let rows = x_final.len() / width;
        let mut x = vec![f16::ZERO; rows * padded(width)];
        for (to, from) in x.chunks_mut(padded(width)).zip(x_final.chunks(width)) {
            to[..width].copy_from_slice(from);
        }
        self.gpu.write(self.plan.buffers.head_step.count, &(rows as u32).to_ne_bytes())?;
        self.gpu.write(self.plan.buffers.head_x, bytemuck::cast_slice(&x))?;
        Ok(rows)
    }

    fn logits(&mut self, x_final: &[f16], logits: &mut [f32]) -> Result<(), GpuError> {
        let rows = self.write_head(x_final)?;
        self.gpu.run(&[self.plan.logits(Width::of(rows))])?;
        self.gpu.read(&mut [(self.plan.buffers.logits, bytemuck::cast_slice_mut(logits))])
    }

    fn sample(&mut self, x_final: &[f16], params: &[(SamplingParams, u32)]) -> Result<Vec<u32>, GpuError> {
        let rows = self.write_head(x_final)?;
        let choices: Vec<Choice> = params.iter().map(|(params, step)| choice(params, *step)).collect();
        self.gpu.write(self.plan.buffers.choices, bytemuck::cast_slice(&choices))?;
        let width = Width::of(rows);
        let [top, choose] = self.plan.sample(width);
        self.gpu.run(&[self.plan.logits(width), top, choose])?;
        let mut tokens = vec![0u32; rows];
        self.gpu.read(&mut [(self.plan.buffers.tokens, bytemuck::cast_slice_mut(&mut tokens))])?;
        Ok(tokens)
    }

    fn copy_page(&mut self, from: u64, to: u64) -> Result<(), GpuError> {
        let [key, value] = page_bytes(&self.plan.arch);
        for layer in &self.plan.places.layers {
            for (base, bytes) in [(layer.cache.keys, key), (layer.cache.values, value)] {
                self.gpu.copy(base + to * bytes as u64, base + from * bytes as u64, bytes)?;
            }
        }
        Ok(())
    }
}

/// The elements of rows of `len`, without what pads them.
fn unpadded<T: Copy>(rows: &[T], len: usize) -> impl Iterator<Item = T> + '_ {
    rows.chunks(padded(len)).flat_map(move |row| row[..len].iter().copied())
}

/// What the sampler's kernel reads of the parameters.
fn choice(params: &SamplingParams, step: u32) -> Choice {
    let key = params.key();
    if params.temperature_micros == 0 {
        return Choice { top_k: 1, step, key, ..Choice::default() };
    }
    let top_k = if params.top_k == 0 { MAX_TOP_K as u32 } else { params.top_k };
    Choice { temperature: params.temperature(), top_p: params.top_p(), top_k, step, key }
}

/// Packs and copies all weights.
fn upload<G: Gpu>(gpu: &mut G, model: &dyn Decoder) -> Result<Places, GpuError> {
    let (arch, weights) = (model.arch(), model.weights());
    let embedding = matrix(gpu, &weights.embedding)?;
    let tied = std::ptr::eq(weights.head.panels, weights.embedding.panels);
    let head = if tied { embedding } else { matrix(gpu, &weights.head)? };
    let final_gain = halves(gpu, weights.final_gain)?;
    let table = RopeTable::of(arch);
    let turns: Vec<[f32; 2]> = (0..table.positions()).flat_map(|t| table.at(t)).copied().collect();
    let rope = place(gpu, bytemuck::cast_slice(&turns))?;
    let layers =
        weights.layers.iter().map(|layer| upload_layer(gpu, arch, layer)).collect::<Result<_, _>>()?;
    Ok(Places { embedding, head, final_gain, rope, layers })
}

fn upload_layer<G: Gpu>(
    gpu: &mut G,
    arch: &Architecture,
    w: &LayerWeights<'_>,
) -> Result<LayerPlaces, GpuError> {
    let (q, kv, dim) = (arch.q_rows() as usize, arch.kv_rows() as usize, arch.head_dim as usize);
    let width = arch.width as usize;
    // The row of q, k or v that a row of their product is.
    let of_qkv = |i: usize| match i {
        i if i < q => (0, paired(i, dim)),
        i if i < q + kv => (1, paired(i - q, dim)),
        i => (2, i - q - kv),
    };
    let qkv = packed(gpu, q + 2 * kv, width, &|i, out| {
        let (which, row) = of_qkv(i);
        [w.q, w.k, w.v][which].row(row, out);
    })?;
    let bias = match (w.q_bias, w.k_bias, w.v_bias) {
        (None, None, None) => 0,
        biases => {
            let biases = [biases.0, biases.1, biases.2].map(Option::unwrap_or_default);
            let all = (0..q + 2 * kv).map(|i| {
                let (which, row) = of_qkv(i);
                biases[which].get(row).copied().unwrap_or(f16::ZERO)
            });
            halves(gpu, &all.collect::<Vec<_>>())?
        }
    };
    let gate_up = packed(gpu, 2 * arch.ffn as usize, width, &|i, out| [w.gate, w.up][i % 2].row(i / 2, out))?;
    Ok(LayerPlaces {
        attn_gain: halves(gpu, w.attn_gain)?,
        qkv,
        bias,
        q_gain: gain(gpu, w.q_norm)?,
        k_gain: gain(gpu, w.k_norm)?,
        o: matrix(gpu, &w.o)?,
        ffn_gain: halves(gpu, w.ffn_gain)?,
        gate_up,
        down: matrix(gpu, &w.down)?,
        cache: Cache::default(),
    })
}

fn matrix<G: Gpu>(gpu: &mut G, w: &Tensor<'_>) -> Result<Matrix, GpuError> {
    packed(gpu, w.rows, w.cols, &|i, out| w.row(i, out))
}

/// Packs a matrix piece by piece, so that the whole is never twice in memory.
fn packed<G: Gpu>(
    gpu: &mut G,
    rows: usize,
    cols: usize,
    row: &dyn Fn(usize, &mut [f16]),
) -> Result<Matrix, GpuError> {
    let data = gpu.alloc(packed_len(rows, cols) * size_of::<f16>())?;
    let group = SIDE * padded(cols);
    let (groups, step) = (rows.div_ceil(SIDE), (PIECE / group).max(1));
    for first in (0..groups).step_by(step) {
        let piece = pack(rows, cols, first..groups.min(first + step), row);
        gpu.write(data + (first * group * size_of::<f16>()) as u64, bytemuck::cast_slice(&piece))?;
    }
    Ok(Matrix { data, rows: rows as u32, cols: cols as u32 })
}

/// A gain that a model need not have.
fn gain<G: Gpu>(gpu: &mut G, values: Option<&[f16]>) -> Result<Address, GpuError> {
    values.map_or(Ok(0), |values| halves(gpu, values))
}

fn halves<G: Gpu>(gpu: &mut G, values: &[f16]) -> Result<Address, GpuError> {
    place(gpu, bytemuck::cast_slice(values))
}

fn place<G: Gpu>(gpu: &mut G, bytes: &[u8]) -> Result<Address, GpuError> {
    let to = gpu.alloc(bytes.len())?;
    gpu.write(to, bytes)?;
    Ok(to)
}

const _: () = assert!(PAGE == BLOCK);
