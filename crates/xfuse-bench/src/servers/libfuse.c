/* The benchmark's two file systems on libfuse's low-level API, as small as the Rust ones beside it:
 *   libfuse-server memory|tree MOUNTPOINT BACKING THREADS OPTIONS
 * THREADS 1 is libfuse's single-threaded loop, 0 its default multi-threaded one. OPTIONS: -, clone, splice. */
#define FUSE_USE_VERSION 312
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 1024u
#define FILE_INO 2
#define BUCKETS 65536u
#define MAX_IO (1u << 20)

static int splice_wanted;

static void init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	conn->max_write = MAX_IO;
	conn->max_readahead = MAX_IO;
	conn->max_background = 64;
	if (splice_wanted)
		conn->want |= conn->capable & (FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_SPLICE_READ);
	else
		conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_SPLICE_READ);
	/* The Rust servers do not ask for these either; AUTO_INVAL_DATA would add a GETATTR to each read. */
	conn->want &= ~(unsigned)(FUSE_CAP_READDIRPLUS | FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_POSIX_LOCKS |
				  FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_AUTO_INVAL_DATA);
}

/* ---- one file in memory, always direct ---- */

static unsigned char *memory;
static pthread_mutex_t page_locks[PAGES];

static int memory_stat(fuse_ino_t ino, struct stat *st)
{
	memset(st, 0, sizeof *st);
	st->st_ino = ino;
	st->st_blksize = PAGE;
	if (ino == FUSE_ROOT_ID) {
		st->st_mode = S_IFDIR | 0755;
		st->st_nlink = 2;
	} else if (ino == FILE_INO) {
		st->st_mode = S_IFREG | 0644;
		st->st_nlink = 1;
		st->st_size = PAGE * PAGES;
	} else {
		return ENOENT;
	}
	return 0;
}

static void memory_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = { .ino = FILE_INO };
	if (parent != FUSE_ROOT_ID || strcmp(name, "file") != 0) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	memory_stat(FILE_INO, &entry.attr);
	fuse_reply_entry(req, &entry);
}

static void memory_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	int error = memory_stat(ino, &st);
	(void)fi;
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_attr(req, &st, 0);
}

static void memory_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (ino != FILE_INO) {
		fuse_reply_err(req, EISDIR);
		return;
	}
	fi->direct_io = 1;
	fuse_reply_open(req, fi);
}

static void memory_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	size_t page = (size_t)offset / PAGE, start = (size_t)offset % PAGE;
	(void)ino;
	(void)fi;
	if (page >= PAGES || start + size > PAGE) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	pthread_mutex_lock(&page_locks[page]);
	fuse_reply_buf(req, (const char *)memory + offset, size);
	pthread_mutex_unlock(&page_locks[page]);
}

static void memory_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
			 struct fuse_file_info *fi)
{
	size_t page = (size_t)offset / PAGE, start = (size_t)offset % PAGE;
	(void)ino;
	(void)fi;
	if (page >= PAGES || start + size > PAGE) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	pthread_mutex_lock(&page_locks[page]);
	memcpy(memory + offset, data, size);
	pthread_mutex_unlock(&page_locks[page]);
	fuse_reply_write(req, size);
}

static const struct fuse_lowlevel_ops memory_ops = {
	.init = init,
	.lookup = memory_lookup,
	.getattr = memory_getattr,
	.open = memory_open,
	.read = memory_read,
	.write = memory_write,
};

/* ---- a tree passed through: an O_PATH descriptor for each inode the kernel knows ---- */

struct node {
	struct node *next;
	ino_t key;
	uint64_t lookups;
	int fd;
};

static struct node root;
static struct node *table[BUCKETS];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

static struct node *node_of(fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? &root : (struct node *)(uintptr_t)ino;
}

static int tree_entry(fuse_ino_t parent, const char *name, struct fuse_entry_param *entry)
{
	struct node *node, **bucket;
	int fd = openat(node_of(parent)->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	memset(entry, 0, sizeof *entry);
	if (fd < 0)
		return errno;
	if (fstatat(fd, "", &entry->attr, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0) {
		int error = errno;
		close(fd);
		return error;
	}
	bucket = &table[entry->attr.st_ino % BUCKETS];
	pthread_mutex_lock(&table_lock);
	for (node = *bucket; node && node->key != entry->attr.st_ino; node = node->next)
		;
	if (node) {
		close(fd);
	} else {
		node = calloc(1, sizeof *node);
		if (!node)
			abort();
		node->key = entry->attr.st_ino;
		node->fd = fd;
		node->next = *bucket;
		*bucket = node;
	}
	node->lookups++;
	pthread_mutex_unlock(&table_lock);
	entry->ino = (uintptr_t)node;
	return 0;
}

static void drop_lookups(fuse_ino_t ino, uint64_t count)
{
	struct node *node = node_of(ino), **at;
	if (node == &root)
		return;
	pthread_mutex_lock(&table_lock);
	node->lookups -= count;
	if (node->lookups == 0) {
		for (at = &table[node->key % BUCKETS]; *at != node; at = &(*at)->next)
			;
		*at = node->next;
		close(node->fd);
		free(node);
	}
	pthread_mutex_unlock(&table_lock);
}

static void tree_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry;
	int error = tree_entry(parent, name, &entry);
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_entry(req, &entry);
}

static void tree_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	drop_lookups(ino, count);
	fuse_reply_none(req);
}

static void tree_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		drop_lookups(forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

static void tree_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	(void)fi;
	if (fstatat(node_of(ino)->fd, "", &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_attr(req, &st, 0);
}

static void proc_path(fuse_ino_t ino, char path[64])
{
	snprintf(path, 64, "/proc/self/fd/%d", node_of(ino)->fd);
}

static void tree_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int valid, struct fuse_file_info *fi)
{
	if (valid & FUSE_SET_ATTR_SIZE) {
		char path[64];
		proc_path(ino, path);
		if (truncate(path, attr->st_size) < 0) {
			fuse_reply_err(req, errno);
			return;
		}
	}
	tree_getattr(req, ino, fi);
}

static void tree_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	if (mkdirat(node_of(parent)->fd, name, mode) < 0)
		fuse_reply_err(req, errno);
	else
		tree_lookup(req, parent, name);
}

static void tree_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, unlinkat(node_of(parent)->fd, name, 0) < 0 ? errno : 0);
}

static void tree_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, unlinkat(node_of(parent)->fd, name, AT_REMOVEDIR) < 0 ? errno : 0);
}

static int backing_flags(int flags)
{
	return (flags & ~(O_DIRECT | O_NOFOLLOW | O_CREAT | O_EXCL)) | O_CLOEXEC;
}

static void tree_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fuse_entry_param entry;
	int error;
	int fd = openat(node_of(parent)->fd, name, backing_flags(fi->flags) | O_CREAT | (fi->flags & O_EXCL), mode);
	if (fd < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	fi->fh = (uint64_t)fd;
	error = tree_entry(parent, name, &entry);
	if (error) {
		close(fd);
		fuse_reply_err(req, error);
	} else {
		fuse_reply_create(req, &entry, fi);
	}
}

static void tree_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	char path[64];
	int fd;
	proc_path(ino, path);
	fd = open(path, backing_flags(fi->flags));
	if (fd < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	fi->fh = (uint64_t)fd;
	fuse_reply_open(req, fi);
}

static void tree_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	close((int)fi->fh);
	fuse_reply_err(req, 0);
}

static void tree_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	static __thread char *buffer;
	ssize_t got;
	(void)ino;
	if (splice_wanted) {
		struct fuse_bufvec source = FUSE_BUFVEC_INIT(size);
		source.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
		source.buf[0].fd = (int)fi->fh;
		source.buf[0].pos = offset;
		fuse_reply_data(req, &source, FUSE_BUF_SPLICE_MOVE);
		return;
	}
	if (!buffer && posix_memalign((void **)&buffer, PAGE, MAX_IO) != 0)
		abort();
	got = pread((int)fi->fh, buffer, size < MAX_IO ? size : MAX_IO, offset);
	if (got < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_buf(req, buffer, (size_t)got);
}

static void tree_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
		       struct fuse_file_info *fi)
{
	ssize_t put = pwrite((int)fi->fh, data, size, offset);
	(void)ino;
	if (put < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_write(req, (size_t)put);
}

static void tree_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *source, off_t offset,
			   struct fuse_file_info *fi)
{
	struct fuse_bufvec target = FUSE_BUFVEC_INIT(fuse_buf_size(source));
	ssize_t put;
	(void)ino;
	target.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	target.buf[0].fd = (int)fi->fh;
	target.buf[0].pos = offset;
	put = fuse_buf_copy(&target, source, 0);
	if (put < 0)
		fuse_reply_err(req, (int)-put);
	else
		fuse_reply_write(req, (size_t)put);
}

static struct fuse_lowlevel_ops tree_ops = {
	.init = init,
	.lookup = tree_lookup,
	.forget = tree_forget,
	.forget_multi = tree_forget_multi,
	.getattr = tree_getattr,
	.setattr = tree_setattr,
	.mkdir = tree_mkdir,
	.unlink = tree_unlink,
	.rmdir = tree_rmdir,
	.create = tree_create,
	.open = tree_open,
	.release = tree_release,
	.read = tree_read,
	.write = tree_write,
};

static int serve(struct fuse_session *session, const char *mountpoint, int threads, int clone)
{
	int result;
	if (fuse_session_mount(session, mountpoint) != 0)
		return 1;
	if (threads == 1) {
		result = fuse_session_loop(session);
	} else {
		struct fuse_loop_config *config = fuse_loop_cfg_create();
		fuse_loop_cfg_set_clone_fd(config, (unsigned)clone);
		result = fuse_session_loop_mt(session, config);
		fuse_loop_cfg_destroy(config);
	}
	fuse_session_unmount(session);
	return result != 0;
}

int main(int argc, char **argv)
{
	struct rlimit files = { 1 << 20, 1 << 20 };
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fuse_session *session;
	const struct fuse_lowlevel_ops *ops = &memory_ops;
	int result;
	if (argc != 6)
		return 2;
	umask(0);
	setrlimit(RLIMIT_NOFILE, &files);
	splice_wanted = strcmp(argv[5], "splice") == 0;
	if (strcmp(argv[1], "tree") == 0) {
		root.fd = open(argv[3], O_PATH | O_CLOEXEC);
		if (root.fd < 0) {
			perror(argv[3]);
			return 1;
		}
		if (splice_wanted)
			tree_ops.write_buf = tree_write_buf;
		ops = &tree_ops;
	} else {
		memory = calloc(PAGES, PAGE);
		for (unsigned i = 0; i < PAGES; i++)
			pthread_mutex_init(&page_locks[i], NULL);
	}
	if (fuse_opt_add_arg(&args, "libfuse-server") != 0)
		return 1;
	session = fuse_session_new(&args, ops, sizeof *ops, NULL);
	if (!session)
		return 1;
	result = serve(session, argv[2], atoi(argv[4]), strcmp(argv[5], "clone") == 0);
	fuse_session_destroy(session);
	fuse_opt_free_args(&args);
	return result;
}
