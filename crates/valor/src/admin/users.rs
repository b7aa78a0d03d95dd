//! Users and their tokens. These commands work on the database itself, as in 3FS, so they need no running service
//! but the process that owns it.

use super::Admin;
use super::table::Table;
use std::time::Duration;
use valor_protocol::status;
use valor_protocol::user::UserAttr;
use valor_user::{NewUser, Ttls, UserStore};
use valor_wire::Status;

#[derive(clap::Subcommand, Debug)]
#[expect(clippy::enum_variant_names, reason = "the names of 3FS's commands")]
pub enum Command {
    /// Add a user and print its token; the first one must be an administrator.
    UserAdd {
        uid: u32,
        name: String,
        /// May act as any user.
        #[arg(long)]
        root: bool,
        /// May change the cluster.
        #[arg(long)]
        admin: bool,
        /// Supplementary groups.
        #[arg(long, value_delimiter = ',')]
        groups: Vec<u32>,
        /// Its token; a new one if absent.
        #[arg(long = "user-token")]
        user_token: Option<String>,
    },
    /// Users without their tokens.
    UserList,
    /// Remove a user.
    UserRemove { uid: u32 },
}

pub async fn run(admin: &Admin, command: Command) -> Result<(), String> {
    let users = UserStore::new(admin.env.clone(), admin.users()?, || Ttls {
        exist: Duration::ZERO,
        inexist: Duration::ZERO,
    });
    let failed = |status: Status| status::describe(&status);
    match command {
        Command::UserAdd { uid, name, root, admin: may_change, groups, user_token } => {
            let first = users.list().await.map_err(failed)?.is_empty();
            if first && !may_change {
                return Err("the first user must be an administrator: add --admin".into());
            }
            let new = NewUser { uid, name, groups, root, admin: may_change, token: user_token };
            let user = users.add(new).await.map_err(failed)?;
            print(admin.json, std::slice::from_ref(&user));
            println!("token: {}", user.token);
        }
        Command::UserList => print(admin.json, &users.list().await.map_err(failed)?),
        Command::UserRemove { uid } => {
            let user = users.remove(uid).await.map_err(failed)?;
            println!("removed {} ({uid})", user.name);
        }
    }
    Ok(())
}

fn print(json: bool, users: &[UserAttr]) {
    let mut table = Table::new(&["Uid", "Name", "Gid", "Groups", "IsRoot", "IsAdmin"]);
    for user in users {
        let groups: Vec<String> = user.groups.iter().map(ToString::to_string).collect();
        table.row(vec![
            user.uid.to_string(),
            user.name.clone(),
            user.gid.to_string(),
            groups.join(","),
            user.root.to_string(),
            user.admin.to_string(),
        ]);
    }
    table.print(json);
}
