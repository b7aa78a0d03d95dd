//! What was measured, medians over it, and the files that come out.

use crate::rows::{Row, Sample, Unit};
use crate::servers::{Library, Variant};
use crate::tables;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The machine and the amounts of work.
#[derive(Debug, Clone, Serialize)]
pub struct About {
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
    pub libfuse: Option<String>,
    pub files: u32,
    pub sequential_mib: u64,
    pub moment_ms: u64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Taken {
    quiet: bool,
    #[serde(flatten)]
    sample: Sample,
}

#[derive(Debug, Default, Serialize)]
struct Cell {
    samples: Vec<Taken>,
    errors: Vec<String>,
}

/// How busy the machine was around one section of a server's turn.
#[derive(Debug, Serialize)]
struct Around {
    server: &'static str,
    section: &'static str,
    idle_before: f64,
    used_by_others: f64,
    quiet: bool,
}

/// A row's name and unit.
#[derive(Debug, Clone)]
pub struct Head {
    pub name: String,
    pub unit: Unit,
}

/// Medians of a cell.
#[derive(Debug, Clone, Copy)]
pub struct Median {
    pub value: f64,
    pub p99_us: Option<f64>,
    pub server_cpu: Option<f64>,
    pub client_cpu: Option<f64>,
    pub sleeps: Option<f64>,
    /// Whether the rounds behind it were quiet.
    pub quiet: bool,
}

impl Median {
    /// CPU per operation of both sides.
    pub fn cpu(&self) -> Option<f64> {
        Some(self.server_cpu? + self.client_cpu?)
    }
}

/// Everything measured. Baselines are a server named so.
pub struct Report {
    pub about: About,
    pub rounds: u32,
    pub heads: Vec<Head>,
    cells: BTreeMap<(String, &'static str), Cell>,
    around: Vec<Around>,
    /// Row names of the section that is under way, whose quietness is not known yet.
    open: Vec<String>,
}

const BASELINE: &str = "baseline";

impl Report {
    pub fn new(about: About) -> Self {
        Report {
            about,
            rounds: 0,
            heads: Vec::new(),
            cells: BTreeMap::new(),
            around: Vec::new(),
            open: Vec::new(),
        }
    }

    fn cell(&mut self, name: &str, unit: Unit, server: &'static str) -> &mut Cell {
        if !self.heads.iter().any(|head| head.name == name) {
            self.heads.push(Head { name: name.to_owned(), unit });
        }
        self.cells.entry((name.to_owned(), server)).or_default()
    }

    pub fn baseline(&mut self, name: &str, unit: Unit, quiet: bool, result: Result<Sample, String>) {
        let cell = self.cell(name, unit, BASELINE);
        match result {
            Ok(sample) => cell.samples.push(Taken { quiet, sample }),
            Err(error) => cell.errors.push(error),
        }
    }

    /// One measurement of the section under way.
    pub fn add(&mut self, row: &Row, server: Variant, result: Result<Sample, String>) {
        let cell = self.cell(&row.name, row.unit, server.name);
        match result {
            Ok(sample) => {
                cell.samples.push(Taken { quiet: false, sample });
                self.open.push(row.name.clone());
            }
            Err(error) => cell.errors.push(error),
        }
    }

    /// Ends a section: only now is known how busy the machine was.
    pub fn end_section(
        &mut self,
        server: Variant,
        section: &'static str,
        idle_before: f64,
        used_by_others: f64,
        quiet: bool,
    ) {
        for name in std::mem::take(&mut self.open) {
            let cell = self.cells.get_mut(&(name, server.name));
            if let Some(last) = cell.and_then(|cell| cell.samples.last_mut()) {
                last.quiet = quiet;
            }
        }
        self.around.push(Around { server: server.name, section, idle_before, used_by_others, quiet });
    }

    /// Medians of a row, over quiet rounds if there are any.
    pub fn median(&self, row: &str, server: &'static str) -> Option<Median> {
        let samples = &self.cells.get(&(row.to_owned(), server))?.samples;
        let quiet = samples.iter().any(|taken| taken.quiet);
        let of = |field: fn(&Sample) -> Option<f64>| {
            let used = samples.iter().filter(|taken| taken.quiet == quiet);
            middle(used.filter_map(|taken| field(&taken.sample)).collect())
        };
        Some(Median {
            value: of(|sample| Some(sample.value))?,
            p99_us: of(|sample| sample.p99_us),
            server_cpu: of(|sample| sample.server_cpu),
            client_cpu: of(|sample| sample.client_cpu),
            sleeps: of(|sample| sample.sleeps),
            quiet,
        })
    }

    pub fn baseline_median(&self, row: &str) -> Option<Median> {
        self.median(row, BASELINE)
    }

    /// A library's best mode for a row.
    pub fn best(&self, head: &Head, library: Library) -> Option<(Variant, Median)> {
        self.best_of(head, |variant| variant.library() == library)
    }

    /// The best of some modes for a row.
    pub fn best_of(&self, head: &Head, wanted: impl Fn(&Variant) -> bool) -> Option<(Variant, Median)> {
        let modes = Variant::all().filter(wanted);
        let measured = modes.filter_map(|variant| Some((variant, self.median(&head.name, variant.name)?)));
        measured.min_by(|(_, a), (_, b)| {
            let order = a.value.total_cmp(&b.value);
            if head.unit.higher_is_better() { order.reverse() } else { order }
        })
    }

    /// Whether a server failed at a row in every round.
    pub fn failed(&self, row: &str, server: &'static str) -> bool {
        let cell = self.cells.get(&(row.to_owned(), server));
        cell.is_some_and(|cell| cell.samples.is_empty() && !cell.errors.is_empty())
    }

    /// Server, error, and the rows it struck.
    pub fn errors(&self) -> BTreeMap<(&'static str, &str), Vec<&str>> {
        let mut errors: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for ((row, server), cell) in &self.cells {
            for error in &cell.errors {
                let rows = errors.entry((*server, error.as_str())).or_default();
                if rows.last() != Some(&row.as_str()) {
                    rows.push(row);
                }
            }
        }
        errors
    }

    /// Servers that have any result or error.
    pub fn servers(&self) -> Vec<Variant> {
        let has = |variant: &Variant| self.cells.keys().any(|(_, server)| *server == variant.name);
        Variant::all().filter(has).collect()
    }

    /// Quiet sections and all sections of all turns.
    pub fn quiet_sections(&self) -> (usize, usize) {
        (self.around.iter().filter(|around| around.quiet).count(), self.around.len())
    }

    /// Writes `table.md`, `results.json` and `plot.png` into `dir`, and prints the table.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, dir: &Path) -> Result<(), String> {
        std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let table = tables::markdown(self);
        println!("{table}");
        let write = |name: &str, data: &[u8]| {
            let path = dir.join(name);
            std::fs::write(&path, data).map_err(|error| format!("{}: {error}", path.display()))
        };
        write("table.md", table.as_bytes())?;
        write("results.json", self.json()?.as_bytes())?;
        write("plot.png", &tables::plot(self)?)
    }

    fn json(&self) -> Result<String, String> {
        let mut rows = Vec::new();
        for head in &self.heads {
            let mut servers = serde_json::Map::new();
            for ((row, server), cell) in &self.cells {
                if *row == head.name {
                    let value = serde_json::to_value(cell).map_err(|error| error.to_string())?;
                    servers.insert((*server).to_owned(), value);
                }
            }
            rows.push(serde_json::json!({ "row": head.name, "unit": head.unit.name(), "servers": servers }));
        }
        let all = serde_json::json!({
            "about": self.about, "rounds": self.rounds, "sections": self.around, "rows": rows,
        });
        serde_json::to_string_pretty(&all).map_err(|error| error.to_string())
    }
}

fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let high = *values.get(values.len() / 2)?;
    // Of an even number both middle ones count.
    Some(if values.len().is_multiple_of(2) { (values[values.len() / 2 - 1] + high) / 2.0 } else { high })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A report without anything measured.
    pub fn empty() -> Report {
        Report::new(About {
            kernel: String::new(),
            cpu: String::new(),
            cpus: 2,
            libfuse: None,
            files: 1,
            sequential_mib: 1,
            moment_ms: 1,
        })
    }

    /// Adds a measured value as a section would.
    pub fn put(report: &mut Report, row: &str, unit: Unit, server: &str, value: f64, quiet: bool) {
        let server = Variant::find(server).unwrap();
        let sample = Sample { value, server_cpu: Some(1.0), client_cpu: Some(1.0), ..Sample::default() };
        report.cell(row, unit, server.name).samples.push(Taken { quiet: false, sample });
        report.open.push(row.to_owned());
        report.end_section(server, "section", 1.0, 0.0, quiet);
    }

    #[test]
    fn busy_rounds_count_only_without_quiet_ones() {
        let mut report = empty();
        put(&mut report, "row", Unit::Us, "xfuse-1", 50.0, false);
        put(&mut report, "row", Unit::Us, "xfuse-1", 70.0, false);
        let median = report.median("row", "xfuse-1").unwrap();
        assert_eq!((median.value, median.quiet), (60.0, false));
        put(&mut report, "row", Unit::Us, "xfuse-1", 9.0, true);
        let median = report.median("row", "xfuse-1").unwrap();
        assert_eq!((median.value, median.quiet), (9.0, true));
    }

    #[test]
    fn the_best_mode_depends_on_the_unit() {
        let mut report = empty();
        for (server, value) in [("libfuse-s", 1.0), ("libfuse-mt", 2.0)] {
            put(&mut report, "latency", Unit::Us, server, value, true);
            put(&mut report, "rate", Unit::OpsPerSecond, server, value, true);
        }
        let best = |index: usize| report.best(&report.heads[index], Library::Libfuse).unwrap().0.name;
        assert_eq!((best(0), best(1)), ("libfuse-s", "libfuse-mt"));
        assert!(report.best(&report.heads[0], Library::Fuser).is_none());
    }
}
