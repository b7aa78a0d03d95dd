//! Medians, ratios, a table in Markdown, JSON and a bar chart.

use crate::process::Resources;
use crate::systems::SystemKind;
use crate::work::Row;
use resvg::{tiny_skia, usvg};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

#[derive(Debug, Default, Serialize)]
struct Cell {
    values: Vec<f64>,
    cpu_seconds: Vec<f64>,
    resident_bytes: Vec<u64>,
    errors: Vec<String>,
}

/// Everything measured.
pub struct Report {
    systems: Vec<SystemKind>,
    rows: Vec<Row>,
    cells: BTreeMap<(SystemKind, String), Cell>,
    idle_bytes: BTreeMap<SystemKind, Vec<u64>>,
    mount_bytes: BTreeMap<SystemKind, Vec<u64>>,
    /// Share of idle processors before each turn.
    quiet: Vec<f64>,
}

impl Report {
    pub fn new(systems: &[SystemKind], rows: &[Row]) -> Self {
        let mut systems = systems.to_vec();
        systems.sort();
        Self {
            systems,
            rows: rows.to_vec(),
            cells: BTreeMap::new(),
            idle_bytes: BTreeMap::new(),
            mount_bytes: BTreeMap::new(),
            quiet: Vec::new(),
        }
    }

    pub fn add(&mut self, system: SystemKind, row: &Row, value: f64, cpu_seconds: f64, resident_bytes: u64) {
        let cell = self.cells.entry((system, row.name.clone())).or_default();
        cell.values.push(value);
        cell.cpu_seconds.push(cpu_seconds);
        cell.resident_bytes.push(resident_bytes);
    }

    pub fn failed(&mut self, system: SystemKind, row: &Row, error: String) {
        self.cells.entry((system, row.name.clone())).or_default().errors.push(error);
    }

    /// Resident memory before any work.
    pub fn idle(&mut self, system: SystemKind, resources: &Resources, mount: &Resources) {
        self.idle_bytes.entry(system).or_default().push(resources.resident_bytes);
        self.mount_bytes.entry(system).or_default().push(mount.resident_bytes);
    }

    /// How idle the machine was before a turn.
    pub fn quiet(&mut self, share: f64) {
        self.quiet.push(share);
    }

    /// Writes `table.md`, `results.json` and `plot.png` into `dir`, and prints the table.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, dir: &Path) -> Result<(), String> {
        std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let table = self.table();
        println!("{table}");
        let write = |name: &str, data: &[u8]| {
            let path = dir.join(name);
            std::fs::write(&path, data).map_err(|error| format!("{}: {error}", path.display()))
        };
        write("table.md", table.as_bytes())?;
        write("results.json", self.json()?.as_bytes())?;
        write("plot.png", &self.plot()?)
    }

    fn median(&self, system: SystemKind, row: &Row) -> Option<f64> {
        median(&self.cells.get(&(system, row.name.clone()))?.values)
    }

    /// How many times better `system` is than `other`; above 1 is ahead.
    fn ratio(&self, system: SystemKind, other: SystemKind, row: &Row) -> Option<f64> {
        let (a, b) = (self.median(system, row)?, self.median(other, row)?);
        Some(if row.higher_is_better { a / b } else { b / a })
    }

    fn compared(&self) -> Vec<(SystemKind, SystemKind)> {
        self.systems
            .iter()
            .filter_map(|system| Some((*system, system.peer()?)))
            .filter(|(_, peer)| self.systems.contains(peer))
            .collect()
    }

    fn table(&self) -> String {
        let mut out = String::from("| row | unit |");
        for system in &self.systems {
            let _ = write!(out, " {} |", system.name());
        }
        for (system, peer) in self.compared() {
            let _ = write!(out, " {} / {} |", system.name(), peer.name());
        }
        out.push_str(" CPU s valor-1 | CPU s valor-3 |\n|---|---|");
        out.push_str(&"---|".repeat(self.systems.len() + self.compared().len() + 2));
        out.push('\n');
        for row in &self.rows {
            let _ = write!(out, "| {} | {} |", row.name, row.unit);
            for system in &self.systems {
                let _ = write!(out, " {} |", show(self.median(*system, row)));
            }
            for (system, peer) in self.compared() {
                let text =
                    self.ratio(system, peer, row).map_or("-".into(), |ratio| format!("**{ratio:.2}**"));
                let _ = write!(out, " {text} |");
            }
            for system in [SystemKind::Valor1, SystemKind::Valor3] {
                let cpu =
                    self.cells.get(&(system, row.name.clone())).and_then(|cell| median(&cell.cpu_seconds));
                let _ = write!(out, " {} |", show(cpu));
            }
            out.push('\n');
        }
        out.push_str("\nResident memory of all processes of a system, idle and at its largest (MiB):\n\n");
        for system in &self.systems {
            let idle = self.idle_bytes.get(system).and_then(|v| v.iter().max()).copied().unwrap_or(0);
            let largest = self
                .cells
                .iter()
                .filter(|((s, _), _)| s == system)
                .flat_map(|(_, cell)| &cell.resident_bytes)
                .max();
            let _ = writeln!(
                out,
                "- {}: {} idle (of which the mount {}), {} largest",
                system.name(),
                idle >> 20,
                self.mount_bytes.get(system).and_then(|v| v.iter().max()).copied().unwrap_or(0) >> 20,
                largest.copied().unwrap_or(0) >> 20
            );
        }
        let least = self.quiet.iter().copied().fold(1.0, f64::min);
        let _ = writeln!(
            out,
            "\nBefore each turn of a system at least {:.0} % of the machine's processors were idle.",
            least * 100.0
        );
        out
    }

    fn json(&self) -> Result<String, String> {
        let mut systems = serde_json::Map::new();
        for ((system, row), cell) in &self.cells {
            let entry = systems.entry(system.name()).or_insert_with(|| serde_json::json!({}));
            entry[row] = serde_json::to_value(cell).map_err(|error| error.to_string())?;
        }
        serde_json::to_string_pretty(&systems).map_err(|error| error.to_string())
    }

    /// Bars of the ratio to the peer, one pair a row; the line is equality.
    fn plot(&self) -> Result<Vec<u8>, String> {
        const LEFT: f32 = 220.0;
        const UNIT: f32 = 110.0;
        let height = 60 + self.rows.len() * 30;
        let mut svg = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='1000' height='{height}' font-family='DejaVu Sans' font-size='12'>\
             <rect width='100%' height='100%' fill='white'/>\
             <text x='10' y='22' font-size='16'>Valor against MooseFS at equal replicas: ratio, above 1 is ahead</text>"
        );
        for (index, row) in self.rows.iter().enumerate() {
            let y = 45 + index * 30;
            let _ = write!(svg, "<text x='10' y='{}'>{}</text>", y + 14, row.name);
            for (nth, (system, peer)) in self.compared().into_iter().enumerate() {
                let Some(ratio) = self.ratio(system, peer, row) else { continue };
                let width = (ratio as f32 * UNIT).min(690.0);
                let color = ["#3b6ea8", "#d98032"][nth % 2];
                let top = y + nth * 12;
                let _ = write!(
                    svg,
                    "<rect x='{LEFT}' y='{top}' width='{width}' height='10' fill='{color}'/>\
                     <text x='{}' y='{}' font-size='10'>{ratio:.2} ({})</text>",
                    LEFT + width + 4.0,
                    top + 9,
                    system.name()
                );
            }
        }
        let _ =
            write!(svg, "<line x1='{0}' y1='35' x2='{0}' y2='{height}' stroke='black'/></svg>", LEFT + UNIT);
        let mut options = usvg::Options::default();
        options.fontdb_mut().load_system_fonts();
        let tree = usvg::Tree::from_str(&svg, &options).map_err(|error| error.to_string())?;
        let size = tree.size().to_int_size();
        let mut pixmap =
            tiny_skia::Pixmap::new(size.width(), size.height()).ok_or("the plot is too large")?;
        resvg::render(&tree, tiny_skia::Transform::default(), &mut pixmap.as_mut());
        pixmap.encode_png().map_err(|error| error.to_string())
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

fn show(value: Option<f64>) -> String {
    value.map_or(
        "-".into(),
        |value| if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") },
    )
}
