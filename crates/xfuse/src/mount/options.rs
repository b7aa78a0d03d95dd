//! Mount options in the forms mount(2) and fusermount3 take.

use std::fmt::Write;

/// Who performs the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MountMethod {
    /// mount(2) as root, `fusermount3` otherwise.
    #[default]
    Auto,
    /// mount(2).
    Direct,
    /// The set-uid program `fusermount3`.
    Helper,
}

/// How the file system is mounted.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Source shown in `/proc/mounts`.
    pub fsname: String,
    /// File system type shown is `fuse.<subtype>`.
    pub subtype: Option<String>,
    /// Let users other than the mounting one in.
    pub allow_other: bool,
    /// The kernel checks permissions by mode and owner.
    pub default_permissions: bool,
    /// Largest READ in bytes.
    pub max_read: Option<u32>,
    /// Mount read-only.
    pub read_only: bool,
    /// Unmount when the process dies (only with [`MountMethod::Helper`]).
    pub auto_unmount: bool,
    /// Who performs the mount.
    pub method: MountMethod,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            fsname: "xfuse".into(),
            subtype: None,
            allow_other: false,
            default_permissions: false,
            max_read: None,
            read_only: false,
            auto_unmount: false,
            method: MountMethod::Auto,
        }
    }
}

impl MountOptions {
    /// The type argument of mount(2).
    pub(super) fn fstype(&self) -> String {
        match &self.subtype {
            Some(subtype) => format!("fuse.{subtype}"),
            None => "fuse".into(),
        }
    }

    fn common(&self, text: &mut String) {
        for (set, name) in
            [(self.allow_other, ",allow_other"), (self.default_permissions, ",default_permissions")]
        {
            if set {
                text.push_str(name);
            }
        }
        if let Some(max_read) = self.max_read {
            let _ = write!(text, ",max_read={max_read}");
        }
    }

    /// The data argument of mount(2).
    pub(super) fn kernel_data(&self, device: i32) -> String {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        // The root's type; its real mode comes from the file system.
        let mut text = format!("fd={device},rootmode=40000,user_id={uid},group_id={gid}");
        self.common(&mut text);
        text
    }

    /// The `-o` argument of fusermount3.
    pub(super) fn helper_options(&self) -> String {
        // Commas separate options, so the helper unescapes them in names.
        let escape = |text: &str| text.replace('\\', "\\\\").replace(',', "\\,");
        let mut text = format!("fsname={}", escape(&self.fsname));
        if let Some(subtype) = &self.subtype {
            let _ = write!(text, ",subtype={}", escape(subtype));
        }
        self.common(&mut text);
        text.push_str(if self.read_only { ",ro" } else { ",rw" });
        text.push_str(",nosuid,nodev");
        if self.auto_unmount {
            text.push_str(",auto_unmount");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_take_both_forms() {
        let options = MountOptions {
            fsname: "hf3fs.a,b".into(),
            subtype: Some("hf3fs".into()),
            allow_other: true,
            default_permissions: true,
            max_read: Some(1 << 20),
            ..Default::default()
        };
        assert_eq!(options.fstype(), "fuse.hf3fs");
        let data = options.kernel_data(7);
        assert!(data.starts_with("fd=7,rootmode=40000,user_id="), "{data}");
        assert!(data.ends_with(",allow_other,default_permissions,max_read=1048576"), "{data}");
        assert_eq!(
            options.helper_options(),
            "fsname=hf3fs.a\\,b,subtype=hf3fs,allow_other,default_permissions,max_read=1048576,rw,nosuid,nodev"
        );
    }
}
