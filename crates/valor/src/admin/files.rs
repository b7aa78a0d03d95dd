//! Files and directories, without a mount.

use super::Admin;
use super::table::{Table, bytes, time};
use bstr::ByteSlice;
use valor_config::Size;
use valor_protocol::address::Address;
use valor_protocol::meta::{
    self, AtFlags, ChainList, Chains, Empty, Inode, InodeKind, Layout, PathAt, ReqBase, methods,
};
use valor_protocol::mgmtd::{NodeStatus, NodeType};
use valor_protocol::{ChainTableId, ChainTableVersion};

const ROOT: valor_protocol::InodeId = valor_protocol::InodeId(0);

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// An inode.
    Stat {
        path: String,
        /// Follow a symlink at the end.
        #[arg(short = 'L', long)]
        follow: bool,
        /// Also the layout.
        #[arg(long)]
        display_layout: bool,
    },
    /// A directory's entries.
    Ls {
        #[arg(default_value = "/")]
        path: String,
        /// At most this many entries.
        #[arg(short = 'l', long)]
        limit: Option<usize>,
    },
    /// Make a directory.
    Mkdir {
        path: String,
        /// Also missing parents.
        #[arg(short = 'p', long)]
        recursive: bool,
        /// Permissions in octal.
        #[arg(long, default_value = "755")]
        perm: String,
        #[command(flatten)]
        layout: LayoutArgs,
    },
    /// Set the layout that new files of a directory get.
    SetLayout {
        path: String,
        #[command(flatten)]
        layout: LayoutArgs,
    },
    /// CRC-32C of files' contents.
    Checksum {
        #[arg(required = true)]
        path: Vec<String>,
    },
    /// Remove a file or directory.
    Rm {
        path: String,
        /// With everything below it.
        #[arg(short = 'r', long)]
        recursive: bool,
    },
}

/// Where the chunks of files go.
#[derive(clap::Args, Debug)]
pub struct LayoutArgs {
    #[arg(long)]
    chain_table_id: Option<u32>,
    #[arg(long, default_value_t = 0)]
    chain_table_ver: u32,
    /// Chain references of the stripe, in place of allocation.
    #[arg(long, value_delimiter = ',')]
    chain_list: Vec<u32>,
    #[arg(long)]
    chunk_size: Option<Size>,
    #[arg(long)]
    stripe_size: Option<u32>,
}

pub async fn run(admin: &Admin, command: Command) -> Result<(), String> {
    let files = Files::connect(admin).await?;
    match command {
        Command::Stat { path, follow, display_layout } => {
            let inode = files.stat(&path, follow).await?;
            print_inode(admin.json, &path, &inode, display_layout);
            Ok(())
        }
        Command::Ls { path, limit } => files.list(&path, limit.unwrap_or(usize::MAX)).await,
        Command::Mkdir { path, recursive, perm, layout } => {
            let perm = u32::from_str_radix(&perm, 8).map_err(|_| format!("--perm `{perm}` is not octal"))?;
            let request = meta::MkdirsReq {
                base: files.base(),
                path: at(&path),
                perm,
                recursive,
                layout: layout.build(None)?,
            };
            files.call::<methods::Mkdirs>(&request).await.map(drop)
        }
        Command::SetLayout { path, layout } => {
            let old = files.stat(&path, true).await?;
            let old = old.data.as_directory().map(|directory| directory.layout.clone());
            let old = old.ok_or_else(|| format!("{path} is not a directory"))?;
            let layout = layout.build(Some(&old))?.ok_or("give at least one of the layout options")?;
            let request = meta::SetAttrReq {
                base: files.base(),
                path: at(&path),
                layout: Some(layout),
                ..Default::default()
            };
            files.call::<methods::SetAttr>(&request).await.map(drop)
        }
        Command::Checksum { path } => super::content::checksum(admin, &path).await,
        Command::Rm { path, recursive } => {
            let request =
                meta::RemoveReq { base: files.base(), path: at(&path), recursive, ..Default::default() };
            files.call::<methods::Remove>(&request).await.map(drop)
        }
    }
}

impl LayoutArgs {
    /// The layout asked for, taking what is not named from `old`.
    fn build(&self, old: Option<&Layout>) -> Result<Option<Layout>, String> {
        let named = self.chain_table_id.is_some()
            || self.chunk_size.is_some()
            || self.stripe_size.is_some()
            || !self.chain_list.is_empty();
        if !named {
            return Ok(None);
        }
        let missing = |option: &str| format!("{option} is needed for a layout");
        let chunk_size = match self.chunk_size {
            Some(size) => {
                u32::try_from(size.get()).map_err(|_| format!("--chunk-size {size} is too large"))?
            }
            None => old.map(|layout| layout.chunk_size).ok_or_else(|| missing("--chunk-size"))?,
        };
        let table = self.chain_table_id.map(ChainTableId).or(old.map(|layout| layout.table_id));
        let stripe = self.stripe_size.or(old.map(|layout| layout.stripe_size));
        let list = &self.chain_list;
        let layout = Layout {
            table_id: table.ok_or_else(|| missing("--chain-table-id"))?,
            table_version: ChainTableVersion(self.chain_table_ver),
            chunk_size,
            stripe_size: if list.is_empty() {
                stripe.ok_or_else(|| missing("--stripe-size"))?
            } else {
                list.len() as u32
            },
            chains: match list.is_empty() {
                true => Chains::Empty(Empty),
                false => Chains::ChainList(ChainList { chain_indexes: list.clone() }),
            },
        };
        Ok(Some(layout))
    }
}

/// Calls to one metadata server.
struct Files<'a> {
    admin: &'a Admin,
    server: Address,
}

impl<'a> Files<'a> {
    async fn connect(admin: &'a Admin) -> Result<Self, String> {
        let routing = admin.routing().await?;
        let meta = routing
            .nodes
            .values()
            .find(|node| node.r#type == NodeType::Meta && node.status == NodeStatus::HeartbeatConnected)
            .ok_or("no metadata server is connected; see `valor admin list-nodes`")?;
        let server = admin.endpoint(&routing, meta.app.node_id, "MetaSerde")?;
        Ok(Self { admin, server })
    }

    fn base(&self) -> ReqBase {
        let uuid = || valor_wire::Uuid(self.admin.env.random_uuid());
        let client = valor_protocol::app::ClientId { uuid: uuid(), hostname: self.admin.env.hostname() };
        ReqBase { user: self.admin.user.clone(), client, uuid: uuid(), ..Default::default() }
    }

    async fn call<M: valor_protocol::Method>(&self, request: &M::Req) -> Result<M::Rsp, String> {
        self.admin.call::<M>(self.server, request).await
    }

    async fn stat(&self, path: &str, follow: bool) -> Result<Inode, String> {
        let flags = if follow { AtFlags::SYMLINK_FOLLOW } else { AtFlags::SYMLINK_NOFOLLOW };
        let request = meta::StatReq { base: self.base(), path: at(path), flags };
        Ok(self.call::<methods::Stat>(&request).await?.stat)
    }

    async fn list(&self, path: &str, limit: usize) -> Result<(), String> {
        let mut table = Table::new(&["Type", "Perm", "Uid", "Gid", "Length", "MTime", "InodeId", "Name"]);
        let mut prev = bstr::BString::default();
        let mut left = limit;
        loop {
            let page = i32::try_from(left.min(1000)).unwrap_or(1000);
            let request = meta::ListReq {
                base: self.base(),
                path: at(path),
                prev: prev.clone(),
                limit: page,
                status: true,
            };
            let reply = self.call::<methods::List>(&request).await?;
            for (entry, inode) in reply.entries.iter().zip(&reply.inodes) {
                table.row(row(inode, &entry.name.to_str_lossy()));
            }
            left -= reply.entries.len().min(left);
            match reply.entries.last() {
                Some(last) if reply.more && left > 0 => prev = last.name.clone(),
                _ => break,
            }
        }
        table.print(self.admin.json);
        Ok(())
    }
}

fn at(path: &str) -> PathAt {
    PathAt::at(ROOT, path)
}

fn row(inode: &Inode, name: &str) -> Vec<String> {
    let data = &inode.data;
    let (kind, length) = match &data.r#type {
        InodeKind::File(file) => ("File", file.length.to_string()),
        InodeKind::Directory(_) => ("Directory", "-".into()),
        InodeKind::Symlink(link) => ("Symlink", link.target.len().to_string()),
    };
    vec![
        kind.into(),
        format!("{:04o}", data.acl.perm & 0o7777),
        data.acl.uid.to_string(),
        data.acl.gid.to_string(),
        length,
        time(data.mtime.0),
        inode.id.to_string(),
        name.to_owned(),
    ]
}

fn print_inode(json: bool, path: &str, inode: &Inode, display_layout: bool) {
    let mut table = Table::new(&["Field", "Value"]);
    let mut add = |field: &str, value: String| table.row(vec![field.into(), value]);
    let data = &inode.data;
    add("Path", path.into());
    add("Inode", inode.id.to_string());
    let layout = match &data.r#type {
        InodeKind::File(file) => {
            add("Type", "File".into());
            add(
                "Length",
                if json {
                    file.length.to_string()
                } else {
                    format!("{} ({})", file.length, bytes(file.length))
                },
            );
            add("TruncateVer", file.truncate_ver.to_string());
            Some(&file.layout)
        }
        InodeKind::Directory(directory) => {
            add("Type", "Directory".into());
            add("Parent", directory.parent.to_string());
            Some(&directory.layout)
        }
        InodeKind::Symlink(link) => {
            add("Type", "Symlink".into());
            add("Target", link.target.to_str_lossy().into_owned());
            None
        }
    };
    add("Permission", format!("{:04o}", data.acl.perm & 0o7777));
    add("Uid", data.acl.uid.to_string());
    add("Gid", data.acl.gid.to_string());
    add("Nlink", data.nlink.to_string());
    add("Access", time(data.atime.0));
    add("Modify", time(data.mtime.0));
    add("Change", time(data.ctime.0));
    if let (Some(layout), true) = (layout, display_layout) {
        add("ChainTable", format!("{} version {}", layout.table_id, layout.table_version));
        add("ChunkSize", layout.chunk_size.to_string());
        add("StripeSize", layout.stripe_size.to_string());
        add("Chains", format!("{:?}", layout.chains));
    }
    table.print(json);
}
