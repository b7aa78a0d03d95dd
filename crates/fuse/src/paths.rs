//! Paths that users hand to the virtual tree, taken apart without asking anybody.

use bstr::BString;

/// The components of an absolute path, `.` and `..` resolved as text. None for a relative path. A path that ends with a
/// slash means the same directory.
fn normalize(path: &[u8]) -> Option<Vec<BString>> {
    let rest = path.strip_prefix(b"/")?;
    let mut parts: Vec<BString> = Vec::new();
    for part in rest.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            name => parts.push(name.into()),
        }
    }
    Some(parts)
}

/// The components of an absolute path below the first of `prefixes` that it starts with, component by component.
pub(crate) fn below<'a>(path: &[u8], prefixes: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<BString>> {
    let parts = normalize(path)?;
    prefixes
        .into_iter()
        .filter_map(normalize)
        .find_map(|prefix| Some(parts.strip_prefix(&prefix[..])?.to_vec()))
}

/// Whether a command line (arguments ended by NULs) is harmless: if it is `ln`, every path it names must be absolute and
/// on the mount. A relative target would be taken from another directory than the user thinks.
pub(crate) fn ln_is_absolute(command: &[u8], prefixes: &[&[u8]]) -> bool {
    let command = command.strip_suffix(b"\0").unwrap_or(command);
    let mut arguments = command.split(|&byte| byte == 0);
    if !matches!(arguments.next(), Some(b"ln" | b"/bin/ln" | b"/usr/bin/ln")) {
        return true;
    }
    let (mut options, mut skip) = (true, false);
    for argument in arguments {
        let argument = argument.trim_ascii();
        if std::mem::take(&mut skip) {
            continue;
        }
        if options && argument == b"--" {
            options = false;
        } else if options && argument.starts_with(b"-") {
            // An option may take the next argument; 3FS supposes so for those with a value of their own.
            skip = matches!(argument, b"-S" | b"--suffix" | b"-t" | b"--target-directory");
        } else if below(argument, prefixes.iter().copied()).is_none() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str, prefixes: &[&str]) -> Option<String> {
        let parts = below(path.as_bytes(), prefixes.iter().map(|prefix| prefix.as_bytes()))?;
        Some(String::from_utf8(bstr::join("/", &parts)).unwrap())
    }

    #[test]
    fn paths_below_a_mount() {
        assert_eq!(parts("/mnt/a/b/", &["/mnt"]), Some("a/b".into()));
        assert_eq!(parts("/mnt//./a/../b", &["/mnt/"]), Some("b".into()));
        assert_eq!(parts("/mnt/../etc", &["/mnt"]), None);
        assert_eq!(parts("/mntx/a", &["/mnt"]), None);
        assert_eq!(parts("mnt/a", &["/mnt"]), None);
        assert_eq!(parts("/other/x", &["/mnt", "/other"]), Some("x".into()));
        assert_eq!(parts("/mnt", &["/mnt"]), Some(String::new()));
    }

    #[test]
    fn ln_must_name_absolute_paths() {
        let check = |command: &str| ln_is_absolute(command.replace(' ', "\0").as_bytes(), &[b"/mnt"]);
        assert!(check("ln -s /mnt/a /mnt/3fs-virt/rm-rf/x"));
        assert!(!check("ln -s a /mnt/3fs-virt/rm-rf/x"));
        assert!(!check("/usr/bin/ln -s /etc /mnt/3fs-virt/rm-rf/x"));
        assert!(!check("ln -- -s /mnt/a"));
        assert!(check("ln -sf -S bak /mnt/a /mnt/b"));
        assert!(check("python3 whatever"));
        assert!(check(""));
    }
}
