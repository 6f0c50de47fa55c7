//! A table, and the ways to write it.

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Map, json};
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

/// What a column holds; any cell may hold nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// 64 bits, signed.
    Integer,
    /// A double.
    Number,
}

/// A cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a text column.
    Text(String),
    /// Of an integer column.
    Integer(i64),
    /// Of a number column; finite.
    Number(f64),
    /// Of any column.
    Nothing,
}

/// Rows of as many cells as there are columns, each of its column's kind.
pub struct Table {
    /// The files' name.
    pub name: &'static str,
    /// Names and kinds.
    pub columns: Vec<(&'static str, Kind)>,
    /// The cells.
    pub rows: Vec<Vec<Value>>,
}

impl Table {
    /// One object a line.
    pub fn jsonl(&self) -> Vec<u8> {
        let mut out = String::new();
        for row in &self.rows {
            let cell = |value: &Value| match value {
                Value::Text(text) => json!(text),
                Value::Integer(integer) => json!(integer),
                Value::Number(number) => json!(number),
                Value::Nothing => json!(null),
            };
            let names = self.columns.iter().map(|(name, _)| (*name).to_owned());
            let object: Map<_, _> = names.zip(row.iter().map(cell)).collect();
            out.push_str(&serde_json::Value::Object(object).to_string());
            out.push('\n');
        }
        out.into_bytes()
    }

    /// With a header; nothing is an empty cell.
    pub fn csv(&self) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(self.columns.iter().map(|(name, _)| name))?;
        for row in &self.rows {
            let cell = |value: &Value| match value {
                Value::Text(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => format!("'{text}"),
                Value::Text(text) => text.clone(),
                Value::Integer(integer) => integer.to_string(),
                Value::Number(number) => number.to_string(),
                Value::Nothing => String::new(),
            };
            writer.write_record(row.iter().map(cell))?;
        }
        Ok(writer.into_inner().map_err(|e| e.into_error())?)
    }

    /// All columns optional, one row group.
    pub fn parquet(&self) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        let mut schema = format!("message {} {{", self.name);
        for (name, kind) in &self.columns {
            let field = match kind {
                Kind::Text => format!("binary {name} (UTF8)"),
                Kind::Integer => format!("int64 {name}"),
                Kind::Number => format!("double {name}"),
            };
            let _ = write!(schema, " optional {field};");
        }
        schema.push_str(" }");
        let schema = Arc::new(parse_message_type(&schema)?);
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
        let mut group = writer.next_row_group()?;
        for at in 0..self.columns.len() {
            let mut column =
                group.next_column()?.ok_or_else(|| ParquetError::General("a column is missing".into()))?;
            let cells = || self.rows.iter().filter_map(move |row| row.get(at));
            let levels: Vec<i16> = cells().map(|cell| i16::from(*cell != Value::Nothing)).collect();
            match self.columns[at].1 {
                Kind::Text => {
                    let values: Vec<ByteArray> = cells()
                        .filter_map(|cell| match cell {
                            Value::Text(text) => Some(text.as_bytes().to_vec().into()),
                            _ => None,
                        })
                        .collect();
                    column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
                }
                Kind::Integer => {
                    let integer = |cell: &Value| if let Value::Integer(i) = cell { Some(*i) } else { None };
                    let values: Vec<i64> = cells().filter_map(integer).collect();
                    column.typed::<Int64Type>().write_batch(&values, Some(&levels), None)?;
                }
                Kind::Number => {
                    let number = |cell: &Value| if let Value::Number(n) = cell { Some(*n) } else { None };
                    let values: Vec<f64> = cells().filter_map(number).collect();
                    column.typed::<DoubleType>().write_batch(&values, Some(&levels), None)?;
                }
            }
            column.close()?;
        }
        group.close()?;
        Ok(writer.into_inner()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;

    fn table() -> Table {
        Table {
            name: "rows",
            columns: vec![("name", Kind::Text), ("count", Kind::Integer), ("score", Kind::Number)],
            rows: vec![
                vec![Value::Text("a,\"b\"\nü".into()), Value::Integer(7), Value::Number(0.1)],
                vec![Value::Text("=cmd()".into()), Value::Nothing, Value::Number(-2.5)],
                vec![Value::Nothing, Value::Integer(-1), Value::Nothing],
            ],
        }
    }

    #[test]
    fn json_lines_and_csv_hold_every_cell() {
        let jsonl = String::from_utf8(table().jsonl()).expect("UTF-8");
        assert_eq!(
            jsonl,
            "{\"count\":7,\"name\":\"a,\\\"b\\\"\\nü\",\"score\":0.1}\n\
             {\"count\":null,\"name\":\"=cmd()\",\"score\":-2.5}\n\
             {\"count\":-1,\"name\":null,\"score\":null}\n"
        );
        let csv = String::from_utf8(table().csv().expect("written")).expect("UTF-8");
        assert_eq!(csv, "name,count,score\n\"a,\"\"b\"\"\nü\",7,0.1\n'=cmd(),,-2.5\n,-1,\n");
    }

    #[test]
    fn parquet_is_read_back_with_every_cell() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.parquet");
        std::fs::write(&path, table().parquet().expect("written")).expect("written");
        let reader = SerializedFileReader::new(std::fs::File::open(&path).expect("open")).expect("whole");
        let rows: Vec<_> = reader.get_row_iter(None).expect("rows").map(|row| row.expect("read")).collect();
        let cells: Vec<Vec<Field>> =
            rows.into_iter().map(|row| row.get_column_iter().map(|(_, f)| f.clone()).collect()).collect();
        assert_eq!(
            cells,
            [
                [Field::Str("a,\"b\"\nü".into()), Field::Long(7), Field::Double(0.1)],
                [Field::Str("=cmd()".into()), Field::Null, Field::Double(-2.5)],
                [Field::Null, Field::Long(-1), Field::Null],
            ]
        );
    }
}
