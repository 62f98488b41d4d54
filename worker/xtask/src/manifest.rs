//! MANIFEST.toml: what the committed kernels were built from, and what they cost.

use std::collections::BTreeMap;

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// SHA-256 of kernels.fatbin.
    pub fatbin: String,
    /// What nvcc got, besides input and output.
    pub flags: Vec<String>,
    /// Packages and their versions.
    pub compiler: BTreeMap<String, String>,
    /// SHA-256 of each source.
    pub sources: BTreeMap<String, String>,
    /// By architecture and kernel.
    pub kernels: Kernels,
}

/// What a kernel takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Of each thread.
    pub registers: u32,
    /// Bytes of each thread that are in memory since registers ran out, stored and loaded.
    pub spills: u32,
    /// Bytes of each thread.
    pub stack: u32,
    /// Bytes of each block of threads.
    pub shared: u32,
    /// Machine instructions as they stand, loops once: all, fused multiply-adds, loads of 16 bytes from memory, loads
    /// from shared memory.
    pub instructions: u32,
    pub fma: u32,
    pub loads_16: u32,
    pub shared_loads: u32,
    /// Bytes that a thread loads from memory and stores to it, loops once, branches all taken.
    pub bytes: u32,
    /// Of the main loop, the least that has half of the fused multiply-adds: all instructions, and those. 0: no such loop.
    pub loop_instructions: u32,
    pub loop_fma: u32,
}

/// By architecture and kernel.
pub type Kernels = BTreeMap<String, BTreeMap<String, Cost>>;

/// Costs from what ptxas says with -v.
pub fn from_ptxas(said: &str) -> Result<Kernels> {
    let mut kernels = Kernels::new();
    let mut current: Option<&mut Cost> = None;
    for line in said.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let (name, rest) = rest.split_once("' for '").context("a kernel without an architecture")?;
            let arch = rest.trim_end_matches('\'').to_string();
            current = Some(kernels.entry(arch).or_default().entry(name.to_string()).or_default());
        } else if let Some(cost) = current.as_mut().filter(|_| line.contains("bytes stack frame")) {
            cost.stack = before(line, " bytes stack frame")?;
            cost.spills = before(line, " bytes spill stores")? + before(line, " bytes spill loads")?;
        } else if let Some(cost) = current.as_mut().filter(|_| line.contains(" registers")) {
            cost.registers = before(line, " registers")?;
            cost.shared = if line.contains(" bytes smem") { before(line, " bytes smem")? } else { 0 };
        }
    }
    Ok(kernels)
}

/// The number that stands before `what`.
fn before(line: &str, what: &str) -> Result<u32> {
    let number = line.split(what).next().and_then(|left| left.rsplit([' ', '\t']).next());
    number.and_then(|n| n.parse().ok()).with_context(|| format!("no number before '{what}' in '{line}'"))
}

/// A machine instruction, as far as costs depend on it.
struct Instruction {
    address: u32,
    is_fma: bool,
    /// Where it jumps to, if it does.
    target: Option<u32>,
}

/// Adds what `cuobjdump -sass` lists. Fails on an instruction that would be another arithmetic.
pub fn add_sass(kernels: &mut Kernels, listing: &str) -> Result<()> {
    // The kernel that the lines belong to begins each part.
    for (arch, part) in parts(listing, "arch = ") {
        for (name, part) in parts(part, "Function : ") {
            let cost = kernels.get_mut(arch).and_then(|all| all.get_mut(name));
            let cost =
                cost.with_context(|| format!("machine code of {name} for {arch}, which ptxas did not name"))?;
            let code = part.lines().filter_map(|line| instruction(line.trim()));
            let code = code.map(|(address, text)| cost.add(address, text));
            let code = code.collect::<Result<Vec<_>>>().with_context(|| format!("{name} for {arch}"))?;
            cost.find_loop(&code);
        }
    }
    Ok(())
}

/// What follows each line that begins with `title`, with the rest of that line.
fn parts<'a>(text: &'a str, title: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    text.split(title).skip(1).map(|part| part.split_once('\n').unwrap_or((part, "")))
}

impl Cost {
    fn add(&mut self, address: u32, text: &str) -> Result<Instruction> {
        let mut words = text.split(' ').filter(|word| !word.starts_with('@'));
        let name = words.next().unwrap_or_default();
        let is = |start: &str| name.starts_with(start);
        // Flushing subnormals (the subroutine of a division may, where it changes nothing), or sums in f16.
        if (is("FFMA") && name.contains(".FTZ")) || is("HMMA") {
            bail!("{name}, which is another arithmetic");
        }
        if is("LDL") || is("STL") {
            self.spills += 1;
        }
        self.instructions += u32::from(name != "NOP");
        self.fma += u32::from(is("FFMA"));
        self.loads_16 += u32::from(is("LDG") && name.contains(".128"));
        self.shared_loads += u32::from(is("LDS"));
        // LDGSTS is an asynchronous copy to shared memory.
        if is("LDG") || is("STG") || is("RED") || is("ATOM") {
            self.bytes += bytes(name);
        }
        let target = words.next_back().and_then(|word| word.strip_prefix("0x")).filter(|_| is("BRA"));
        let target = target.and_then(|target| u32::from_str_radix(target, 16).ok());
        Ok(Instruction { address, is_fma: is("FFMA"), target })
    }

    /// A loop is what lies between a jump backwards and where it goes.
    fn find_loop(&mut self, code: &[Instruction]) {
        let count = |jump: &Instruction| {
            let body = jump.target.unwrap_or(u32::MAX)..=jump.address;
            let body = || code.iter().filter(|i| body.contains(&i.address));
            (body().count() as u32, body().filter(|i| i.is_fma).count() as u32)
        };
        let loops = code.iter().map(count).filter(|(_, fma)| *fma > 0 && fma * 2 >= self.fma);
        (self.loop_instructions, self.loop_fma) = loops.min().unwrap_or_default();
    }
}

/// Bytes that a load or store moves: a word, unless its name says otherwise.
fn bytes(name: &str) -> u32 {
    let widths = [("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1)];
    let width = name.split('.').find_map(|part| widths.iter().find(|(width, _)| part == *width));
    width.map_or(4, |(_, bytes)| *bytes)
}

/// Fails where PTX, as `cuobjdump -ptx` lists it, computes with floats other than by IEEE's operations in f32, rounded to
/// nearest, subnormals kept; a mul or add that does not say `.rn` could still be fused.
pub fn check_ptx(listing: &str) -> Result<()> {
    // What an instruction of floats may begin with.
    const EXACT: [&str; 18] = [
        "add.rn",
        "sub.rn",
        "mul.rn",
        "fma.rn",
        "div.rn",
        "sqrt.rn",
        "neg",
        "max",
        "setp.",
        "selp",
        "ld.",
        "st.",
        "mov",
        "cvt.f32.f16",
        "cvt.rn.f16.f32",
        "cvt.rn.f32",
        "cvt.rzi.s32.f32",
        "cvt.rni.f32.f32",
    ];
    // A predicate may stand before the name.
    let name = |line: &str| line.split_whitespace().find(|word| !word.starts_with('@')).map(str::to_string);
    let float = |name: &String| [".f16", ".f32", ".f64"].iter().any(|kind| name.contains(kind));
    let mut found = 0;
    for name in
        listing.lines().filter(|line| !line.trim_start().starts_with('.')).filter_map(name).filter(float)
    {
        let other_type = name.contains(".f64") || (name.contains(".f16") && !name.starts_with("cvt."));
        let inexact = name.contains(".ftz") || name.contains(".approx");
        if other_type || inexact || !EXACT.iter().any(|start| name.starts_with(start)) {
            bail!("{name} in the PTX");
        }
        found += 1;
    }
    if found == 0 {
        bail!("no arithmetic in the PTX");
    }
    Ok(())
}

/// Address and text of an instruction: `/*0010*/  FFMA R0, R1, R2, R3 ;  /* 0x... */`.
fn instruction(line: &str) -> Option<(u32, &str)> {
    let (address, text) = line.strip_prefix("/*")?.split_once("*/")?;
    let address = u32::from_str_radix(address, 16).ok()?;
    Some((address, text.split(';').next().unwrap_or_default().trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTXAS: &str = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'gate_4' for 'sm_80'
ptxas info    : Function properties for gate_4
    8 bytes stack frame, 4 bytes spill stores, 6 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 8 bytes cumulative stack size, 34816 bytes smem, 424 bytes cmem[0]
ptxas info    : Compiling entry function 'embed' for 'sm_90a'
ptxas info    : Function properties for embed
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 22 registers, used 0 barriers";

    const SASS: &str = "arch = sm_90a
\t\tFunction : embed
\t.headerflags\t@\"EF_CUDA_SM90\"
        /*0000*/                   LDC R1, c[0x0][0x28] ;   /* 0x00000a00ff017b82 */
        /*0010*/              @!P0 LDG.E.128.CONSTANT R8, desc[UR4][R2.64] ;  /* 0x0000 */
        /*0020*/                   FFMA R3, R4, R5, R3 ;    /* 0x0000 */
        /*0030*/                   IADD3 R7, R7, 0x1, RZ ;  /* 0x0000 */
        /*0040*/               @P1 BRA 0x20 ;               /* 0x0000 */
        /*0050*/                   STG.E.U16 desc[UR4][R2.64], R3 ;  /* 0x0000 */
        /*0060*/               @P0 BRA 0x0 ;                /* 0x0000 */
        /*0070*/                   NOP;                     /* 0x0000 */";

    #[test]
    fn costs_are_read() {
        let mut kernels = from_ptxas(PTXAS).unwrap();
        let gate = kernels["sm_80"]["gate_4"];
        assert_eq!((gate.registers, gate.spills, gate.stack, gate.shared), (128, 10, 8, 34_816));
        add_sass(&mut kernels, SASS).unwrap();
        let embed = kernels["sm_90a"]["embed"];
        assert_eq!((embed.registers, embed.shared, embed.instructions), (22, 0, 7));
        assert_eq!((embed.fma, embed.loads_16, embed.shared_loads), (1, 1, 0));
        assert_eq!((embed.bytes, embed.loop_instructions, embed.loop_fma), (18, 3, 1));
    }

    #[test]
    fn another_arithmetic_is_refused() {
        let mut kernels = from_ptxas(PTXAS).unwrap();
        let flushing = SASS.replace("FFMA R3", "FFMA.FTZ R3");
        let error = format!("{:#}", add_sass(&mut kernels, &flushing).unwrap_err());
        assert_eq!(error, "embed for sm_90a: FFMA.FTZ, which is another arithmetic");

        let ptx = |name: &str| {
            format!("ld.global.u32 %r1, [%rd1];\n\tfma.rn.f32 %f1, %f2, %f3, %f1;\n\t{name} %f1, %f2;")
        };
        check_ptx(&ptx("div.rn.f32")).unwrap();
        for wrong in [
            "mul.f32",
            "div.full.f32",
            "rsqrt.approx.f32",
            "fma.rn.ftz.f32",
            "fma.rn.f16",
            "ex2.approx.ftz.f32",
        ] {
            assert_eq!(check_ptx(&ptx(wrong)).unwrap_err().to_string(), format!("{wrong} in the PTX"));
        }
    }
}
