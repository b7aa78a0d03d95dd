//! Output of admin commands: aligned columns, or JSON.

use serde_json::{Map, Value};

/// Rows under named columns.
pub struct Table {
    columns: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: &'static [&'static str]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// Prints it: one JSON array of objects, or a header line and left-aligned columns two blanks apart.
    pub fn print(&self, json: bool) {
        if json {
            println!("{}", self.json());
            return;
        }
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.columns[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        print_line(self.columns.iter().copied(), &widths);
        for row in &self.rows {
            print_line(row.iter().map(String::as_str), &widths);
        }
    }

    fn json(&self) -> Value {
        let object = |row: &Vec<String>| {
            let pairs = self.columns.iter().zip(row);
            Value::Object(
                pairs.map(|(column, cell)| ((*column).to_owned(), value(cell))).collect::<Map<_, _>>(),
            )
        };
        Value::Array(self.rows.iter().map(object).collect())
    }
}

/// Whole numbers become JSON numbers.
fn value(cell: &str) -> Value {
    match cell.parse::<u64>() {
        Ok(number) if number.to_string() == cell => Value::from(number),
        _ => Value::from(cell),
    }
}

fn print_line<'a>(cells: impl Iterator<Item = &'a str>, widths: &[usize]) {
    let mut line = String::new();
    for (cell, width) in cells.zip(widths) {
        line.push_str(cell);
        line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
    }
    println!("{}", line.trim_end());
}

/// `2026-11-23 01:02:03` in UTC, from microseconds since the epoch.
pub fn time(micros: i64) -> String {
    if micros <= 0 {
        return "-".into();
    }
    let seconds = micros / 1_000_000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Gregorian date of a day count since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(time(0), "-");
        assert_eq!(time(1_685_548_800_000_000), "2023-05-31 16:00:00");
        assert_eq!(time(951_782_400_000_000), "2000-02-29 00:00:00");
    }

    #[test]
    fn json_keeps_numbers_and_text() {
        let mut table = Table::new(&["Id", "Name"]);
        table.row(vec!["5".into(), "05".into()]);
        assert_eq!(table.json().to_string(), r#"[{"Id":5,"Name":"05"}]"#);
        assert_eq!(bytes(1536), "1.5 KiB");
    }
}
