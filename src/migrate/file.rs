//! The text of a schema step: what it does going up and going down. Pure.
//!
//! A file has header comments, then a line `-- up` with the statements that apply the step, then a line `-- down` with those that
//! take it back.

/// The two directions of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sections<'a> {
    /// Applies the step.
    pub up: &'a str,
    /// Takes it back.
    pub down: &'a str,
}

/// Finds the sections; None when one of the two lines is missing or they stand in the wrong order.
pub fn sections(text: &str) -> Option<Sections<'_>> {
    let up = find_line(text, "-- up")?;
    let down = find_line(text, "-- down")?;
    (up.end <= down.start)
        .then(|| Sections { up: &text[up.end..down.start], down: &text[down.end..] })
}

fn find_line(text: &str, line: &str) -> Option<std::ops::Range<usize>> {
    let mut offset = 0;
    for candidate in text.split_inclusive('\n') {
        let end = offset + candidate.len();
        if candidate.trim_end() == line {
            return Some(offset..end);
        }
        offset = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_found_by_their_lines() {
        let text = "-- about\n\n-- up\nCREATE TABLE t ();\n-- down\nDROP TABLE t;\n";
        let expected = Sections { up: "CREATE TABLE t ();\n", down: "DROP TABLE t;\n" };
        assert_eq!(sections(text), Some(expected));
        assert_eq!(sections("-- down\n-- up\n"), None);
        assert_eq!(sections("-- up\n"), None);
    }
}
