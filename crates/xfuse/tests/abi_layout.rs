//! The Rust ABI structs against hard-coded offsets, and against the installed `<linux/fuse.h>` where it knows them.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};
use std::process::Command;
use xfuse::abi;

/// One struct: C name, size, fields by C name with offsets.
struct Layout {
    c_name: &'static str,
    size: usize,
    fields: Vec<(&'static str, usize)>,
}

macro_rules! layouts {
    ($($name:ident $c:literal $size:literal: $($field:ident $c_field:literal $offset:literal),*;)*) => {
        fn layouts() -> Vec<Layout> {
            vec![$({
                assert_eq!(size_of::<abi::$name>(), $size, "size of {}", $c);
                $(assert_eq!(offset_of!(abi::$name, $field), $offset, "{}.{}", $c, $c_field);)*
                Layout { c_name: $c, size: $size, fields: vec![$(($c_field, $offset)),*] }
            }),*]
        }
    };
}

#[rustfmt::skip]
layouts! {
    Attr "fuse_attr" 88: ino "ino" 0, size "size" 8, blocks "blocks" 16, atime "atime" 24, mtime "mtime" 32,
        ctime "ctime" 40, atimensec "atimensec" 48, mtimensec "mtimensec" 52, ctimensec "ctimensec" 56, mode
        "mode" 60, nlink "nlink" 64, uid "uid" 68, gid "gid" 72, rdev "rdev" 76, blksize "blksize" 80, flags
        "flags" 84;
    SxTime "fuse_sx_time" 16: tv_sec "tv_sec" 0, tv_nsec "tv_nsec" 8, reserved "reserved" 12;
    StatxAttr "fuse_statx" 256: mask "mask" 0, blksize "blksize" 4, attributes "attributes" 8, nlink "nlink" 16,
        uid "uid" 20, gid "gid" 24, mode "mode" 28, spare0 "spare0" 30, ino "ino" 32, size "size" 40, blocks
        "blocks" 48, attributes_mask "attributes_mask" 56, atime "atime" 64, btime "btime" 80, ctime "ctime" 96,
        mtime "mtime" 112, rdev_major "rdev_major" 128, rdev_minor "rdev_minor" 132, dev_major "dev_major" 136,
        dev_minor "dev_minor" 140, spare2 "spare2" 144;
    Kstatfs "fuse_kstatfs" 80: blocks "blocks" 0, bfree "bfree" 8, bavail "bavail" 16, files "files" 24, ffree
        "ffree" 32, bsize "bsize" 40, namelen "namelen" 44, frsize "frsize" 48, padding "padding" 52, spare
        "spare" 56;
    FileLock "fuse_file_lock" 24: start "start" 0, end "end" 8, typ "type" 16, pid "pid" 20;
    InHeader "fuse_in_header" 40: len "len" 0, opcode "opcode" 4, unique "unique" 8, nodeid "nodeid" 16, uid
        "uid" 24, gid "gid" 28, pid "pid" 32, total_extlen "total_extlen" 36, padding "padding" 38;
    OutHeader "fuse_out_header" 16: len "len" 0, error "error" 4, unique "unique" 8;
    EntryOut "fuse_entry_out" 128: nodeid "nodeid" 0, generation "generation" 8, entry_valid "entry_valid" 16,
        attr_valid "attr_valid" 24, entry_valid_nsec "entry_valid_nsec" 32, attr_valid_nsec "attr_valid_nsec"
        36, attr "attr" 40;
    ForgetIn "fuse_forget_in" 8: nlookup "nlookup" 0;
    ForgetOne "fuse_forget_one" 16: nodeid "nodeid" 0, nlookup "nlookup" 8;
    BatchForgetIn "fuse_batch_forget_in" 8: count "count" 0, dummy "dummy" 4;
    GetattrIn "fuse_getattr_in" 16: getattr_flags "getattr_flags" 0, dummy "dummy" 4, fh "fh" 8;
    AttrOut "fuse_attr_out" 104: attr_valid "attr_valid" 0, attr_valid_nsec "attr_valid_nsec" 8, dummy "dummy"
        12, attr "attr" 16;
    StatxIn "fuse_statx_in" 24: getattr_flags "getattr_flags" 0, reserved "reserved" 4, fh "fh" 8, sx_flags
        "sx_flags" 16, sx_mask "sx_mask" 20;
    StatxOut "fuse_statx_out" 288: attr_valid "attr_valid" 0, attr_valid_nsec "attr_valid_nsec" 8, flags "flags"
        12, spare "spare" 16, stat "stat" 32;
    MknodIn "fuse_mknod_in" 16: mode "mode" 0, rdev "rdev" 4, umask "umask" 8, padding "padding" 12;
    MkdirIn "fuse_mkdir_in" 8: mode "mode" 0, umask "umask" 4;
    RenameIn "fuse_rename_in" 8: newdir "newdir" 0;
    Rename2In "fuse_rename2_in" 16: newdir "newdir" 0, flags "flags" 8, padding "padding" 12;
    LinkIn "fuse_link_in" 8: oldnodeid "oldnodeid" 0;
    SetattrIn "fuse_setattr_in" 88: valid "valid" 0, padding "padding" 4, fh "fh" 8, size "size" 16, lock_owner
        "lock_owner" 24, atime "atime" 32, mtime "mtime" 40, ctime "ctime" 48, atimensec "atimensec" 56,
        mtimensec "mtimensec" 60, ctimensec "ctimensec" 64, mode "mode" 68, unused4 "unused4" 72, uid "uid" 76,
        gid "gid" 80, unused5 "unused5" 84;
    OpenIn "fuse_open_in" 8: flags "flags" 0, open_flags "open_flags" 4;
    CreateIn "fuse_create_in" 16: flags "flags" 0, mode "mode" 4, umask "umask" 8, open_flags "open_flags" 12;
    OpenOut "fuse_open_out" 16: fh "fh" 0, open_flags "open_flags" 8, backing_id "backing_id" 12;
    ReleaseIn "fuse_release_in" 24: fh "fh" 0, flags "flags" 8, release_flags "release_flags" 12, lock_owner
        "lock_owner" 16;
    FlushIn "fuse_flush_in" 24: fh "fh" 0, unused "unused" 8, padding "padding" 12, lock_owner "lock_owner" 16;
    ReadIn "fuse_read_in" 40: fh "fh" 0, offset "offset" 8, size "size" 16, read_flags "read_flags" 20,
        lock_owner "lock_owner" 24, flags "flags" 32, padding "padding" 36;
    WriteIn "fuse_write_in" 40: fh "fh" 0, offset "offset" 8, size "size" 16, write_flags "write_flags" 20,
        lock_owner "lock_owner" 24, flags "flags" 32, padding "padding" 36;
    WriteOut "fuse_write_out" 8: size "size" 0, padding "padding" 4;
    StatfsOut "fuse_statfs_out" 80: st "st" 0;
    FsyncIn "fuse_fsync_in" 16: fh "fh" 0, fsync_flags "fsync_flags" 8, padding "padding" 12;
    SetxattrIn "fuse_setxattr_in" 16: size "size" 0, flags "flags" 4, setxattr_flags "setxattr_flags" 8, padding
        "padding" 12;
    SetxattrCompatIn "-8" 8: size "size" 0, flags "flags" 4;
    GetxattrIn "fuse_getxattr_in" 8: size "size" 0, padding "padding" 4;
    GetxattrOut "fuse_getxattr_out" 8: size "size" 0, padding "padding" 4;
    LkIn "fuse_lk_in" 48: fh "fh" 0, owner "owner" 8, lk "lk" 16, lk_flags "lk_flags" 40, padding "padding" 44;
    LkOut "fuse_lk_out" 24: lk "lk" 0;
    AccessIn "fuse_access_in" 8: mask "mask" 0, padding "padding" 4;
    InitIn "fuse_init_in" 64: major "major" 0, minor "minor" 4, max_readahead "max_readahead" 8, flags "flags"
        12, flags2 "flags2" 16, unused "unused" 20;
    InitInCompat "-16" 16: major "major" 0, minor "minor" 4, max_readahead "max_readahead" 8, flags "flags" 12;
    InitOut "fuse_init_out" 64: major "major" 0, minor "minor" 4, max_readahead "max_readahead" 8, flags "flags"
        12, max_background "max_background" 16, congestion_threshold "congestion_threshold" 18, max_write
        "max_write" 20, time_gran "time_gran" 24, max_pages "max_pages" 28, map_alignment "map_alignment" 30,
        flags2 "flags2" 32, max_stack_depth "max_stack_depth" 36, request_timeout "request_timeout" 40, unused
        "unused" 42;
    CuseInitIn "cuse_init_in" 16: major "major" 0, minor "minor" 4, unused "unused" 8, flags "flags" 12;
    CuseInitOut "cuse_init_out" 72: major "major" 0, minor "minor" 4, unused "unused" 8, flags "flags" 12,
        max_read "max_read" 16, max_write "max_write" 20, dev_major "dev_major" 24, dev_minor "dev_minor" 28,
        spare "spare" 32;
    InterruptIn "fuse_interrupt_in" 8: unique "unique" 0;
    BmapIn "fuse_bmap_in" 16: block "block" 0, blocksize "blocksize" 8, padding "padding" 12;
    BmapOut "fuse_bmap_out" 8: block "block" 0;
    IoctlIn "fuse_ioctl_in" 32: fh "fh" 0, flags "flags" 8, cmd "cmd" 12, arg "arg" 16, in_size "in_size" 24,
        out_size "out_size" 28;
    IoctlIovec "fuse_ioctl_iovec" 16: base "base" 0, len "len" 8;
    IoctlOut "fuse_ioctl_out" 16: result "result" 0, flags "flags" 4, in_iovs "in_iovs" 8, out_iovs "out_iovs"
        12;
    PollIn "fuse_poll_in" 24: fh "fh" 0, kh "kh" 8, flags "flags" 16, events "events" 20;
    PollOut "fuse_poll_out" 8: revents "revents" 0, padding "padding" 4;
    NotifyPollWakeupOut "fuse_notify_poll_wakeup_out" 8: kh "kh" 0;
    FallocateIn "fuse_fallocate_in" 32: fh "fh" 0, offset "offset" 8, length "length" 16, mode "mode" 24,
        padding "padding" 28;
    Dirent "fuse_dirent" 24: ino "ino" 0, off "off" 8, namelen "namelen" 16, typ "type" 20;
    DirentPlus "fuse_direntplus" 152: entry "entry_out" 0, dirent "dirent" 128;
    NotifyInvalInodeOut "fuse_notify_inval_inode_out" 24: ino "ino" 0, off "off" 8, len "len" 16;
    NotifyInvalEntryOut "fuse_notify_inval_entry_out" 16: parent "parent" 0, namelen "namelen" 8, flags "flags"
        12;
    NotifyDeleteOut "fuse_notify_delete_out" 24: parent "parent" 0, child "child" 8, namelen "namelen" 16,
        padding "padding" 20;
    NotifyStoreOut "fuse_notify_store_out" 24: nodeid "nodeid" 0, offset "offset" 8, size "size" 16, padding
        "padding" 20;
    NotifyRetrieveOut "fuse_notify_retrieve_out" 32: notify_unique "notify_unique" 0, nodeid "nodeid" 8, offset
        "offset" 16, size "size" 24, padding "padding" 28;
    NotifyRetrieveIn "fuse_notify_retrieve_in" 40: dummy1 "dummy1" 0, offset "offset" 8, size "size" 16, dummy2
        "dummy2" 20, dummy3 "dummy3" 24, dummy4 "dummy4" 32;
    NotifyPruneOut "fuse_notify_prune_out" 16: count "count" 0, padding "padding" 4, spare "spare" 8;
    BackingMap "fuse_backing_map" 16: fd "fd" 0, flags "flags" 4, padding "padding" 8;
    LseekIn "fuse_lseek_in" 24: fh "fh" 0, offset "offset" 8, whence "whence" 16, padding "padding" 20;
    LseekOut "fuse_lseek_out" 8: offset "offset" 0;
    CopyFileRangeIn "fuse_copy_file_range_in" 56: fh_in "fh_in" 0, off_in "off_in" 8, nodeid_out "nodeid_out"
        16, fh_out "fh_out" 24, off_out "off_out" 32, len "len" 40, flags "flags" 48;
    CopyFileRangeOut "fuse_copy_file_range_out" 8: bytes_copied "bytes_copied" 0;
    SetupmappingIn "fuse_setupmapping_in" 40: fh "fh" 0, foffset "foffset" 8, len "len" 16, flags "flags" 24,
        moffset "moffset" 32;
    RemovemappingIn "fuse_removemapping_in" 4: count "count" 0;
    RemovemappingOne "fuse_removemapping_one" 16: moffset "moffset" 0, len "len" 8;
    SyncfsIn "fuse_syncfs_in" 8: padding "padding" 0;
    Secctx "fuse_secctx" 8: size "size" 0, padding "padding" 4;
    SecctxHeader "fuse_secctx_header" 8: size "size" 0, nr_secctx "nr_secctx" 4;
    ExtHeader "fuse_ext_header" 8: size "size" 0, typ "type" 4;
    SuppGroups "fuse_supp_groups" 4: nr_groups "nr_groups" 0;
    UringEntInOut "fuse_uring_ent_in_out" 32: flags "flags" 0, commit_id "commit_id" 8, payload_sz "payload_sz"
        16, padding "padding" 20, reserved "reserved" 24;
    UringCmdReq "fuse_uring_cmd_req" 24: flags "flags" 0, commit_id "commit_id" 8, qid "qid" 16, padding
        "padding" 18;
}

/// The body of `struct name { ... }` in the header text.
fn struct_body<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let start = header.find(&format!("struct {name} {{"))?;
    let body = &header[start..];
    Some(&body[..body.find('}')?])
}

/// Whether a field of that exact name is declared in the body.
fn declares(body: &str, field: &str) -> bool {
    body.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).any(|word| word == field)
}

#[test]
fn hard_coded_layout() {
    assert!(layouts().len() > 70);
}

#[test]
fn installed_header_agrees() {
    let path = std::env::var("XFUSE_FUSE_H").unwrap_or_else(|_| "/usr/include/linux/fuse.h".into());
    let Ok(header) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: {path} is not installed");
        return;
    };
    let mut program = format!(
        "#include <stdio.h>\n#include <stddef.h>\n#include <stdint.h>\n#include \"{path}\"\nint main(void) {{\n"
    );
    let mut expected = BTreeMap::new();
    for layout in layouts() {
        let Some(body) = struct_body(&header, layout.c_name) else { continue };
        let complete = layout.fields.iter().all(|(field, _)| declares(body, field));
        if complete {
            let c = layout.c_name;
            program += &format!("printf(\"%s %zu\\n\", \"{c}\", sizeof(struct {c}));\n");
            expected.insert(c.to_string(), layout.size);
        }
        // Reserved space shrinks as versions use it up.
        let reserved =
            |field: &str| ["unused", "spare", "padding"].iter().any(|prefix| field.starts_with(prefix));
        for (field, offset) in layout.fields.iter().filter(|(f, _)| declares(body, f) && !reserved(f)) {
            let c = layout.c_name;
            program += &format!("printf(\"%s %zu\\n\", \"{c}.{field}\", offsetof(struct {c}, {field}));\n");
            expected.insert(format!("{c}.{field}"), *offset);
        }
    }
    program += "return 0; }\n";
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("layout.c");
    let binary = dir.path().join("layout");
    std::fs::write(&source, program).unwrap();
    let Ok(status) = Command::new("cc").arg("-o").arg(&binary).arg(&source).status() else {
        eprintln!("skipped: no C compiler");
        return;
    };
    assert!(status.success());
    let output = Command::new(&binary).output().unwrap();
    let found: BTreeMap<String, usize> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, value)| (name.to_string(), value.parse().unwrap()))
        .collect();
    assert!(expected.len() > 200, "only {} facts could be checked", expected.len());
    assert_eq!(found, expected);
}
