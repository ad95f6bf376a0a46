#include "ranges/ring.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace tetrace::ranges {
namespace {

constexpr std::size_t chunk_bytes = std::size_t{1} << 20;
constexpr std::uint64_t chunk_rows = chunk_bytes / sizeof(Row) + 1;
constexpr std::size_t least_mapped = std::size_t{1} << 24;
// As much again as there is, so that a busy thread is far ahead of a slow disk, and an idle one has little.
constexpr std::size_t most_ahead = 16 * chunk_bytes;
// What a thread can write between the moment when ranges go off and the moment when it sees that: a few rows.
constexpr std::size_t slack_bytes = std::size_t{1} << 16;

class File {
 public:
  // No file stays open between calls: a script may close every descriptor that it does not know, and another file
  // would then get ours.
  File(const std::string& path, int flags) : descriptor_(open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  operator int() const { return descriptor_; }

 private:
  int descriptor_;
};

// Beyond the limit of a file's size (ulimit -f) the kernel sends SIGXFSZ, which would end the script.
std::size_t most_file_bytes() {
  rlimit limit{};
  const bool has_limit = getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  return has_limit ? static_cast<std::size_t>(limit.rlim_cur) : SIZE_MAX;
}

// Blocks on the disk, not only a larger size: writing to a mapped hole of a full disk would kill the process.
bool extend(int file, std::size_t from, std::size_t to) {
  if (to > most_file_bytes()) return false;
#if defined(__linux__)
  return posix_fallocate(file, static_cast<off_t>(from), static_cast<off_t>(to - from)) == 0;
#else
  static const char zeros[1 << 16] = {};
  for (std::size_t at = from; at < to;) {
    const ssize_t wrote = pwrite(file, zeros, std::min(sizeof zeros, to - at), static_cast<off_t>(at));
    if (wrote <= 0) return false;
    at += static_cast<std::size_t>(wrote);
  }
  return true;
#endif
}

void advise(Row* from, Row* to, int advice) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  char* const aligned = reinterpret_cast<char*>(reinterpret_cast<std::uintptr_t>(from) / page * page);
  madvise(aligned, static_cast<std::size_t>(reinterpret_cast<char*>(to) - aligned), advice);
}

// All pages of a chunk at once: a fault in every hundredth range would cost several times what the range does. Kernels
// before 5.14 refuse, and fault as they go.
void fault_in(Row* from, Row* to) {
#if defined(MADV_POPULATE_WRITE)
  advise(from, to, MADV_POPULATE_WRITE);
#else
  static_cast<void>(from), static_cast<void>(to);
#endif
}

std::string free_path(const std::string& folder, const char* prefix) {
  const std::string stem = folder + "/" + prefix + "-" + std::to_string(thread_number());
  for (int copy = 0; copy < 10'000; ++copy) {
    const std::string path = stem + (copy == 0 ? "" : "-" + std::to_string(copy)) + ".bin";
    const File file(path, O_RDWR | O_CREAT | O_EXCL);
    if (file >= 0) return path;
    if (errno != EEXIST) break;
  }
  return "";
}

}  // namespace

std::int64_t thread_number() {
#if defined(__linux__)
  return syscall(SYS_gettid);
#else
  std::uint64_t number = 0;
  pthread_threadid_np(nullptr, &number);
  return static_cast<std::int64_t>(number);
#endif
}

Ring::Ring(std::string path, std::size_t limit_bytes, Ask ask)
    : path_(std::move(path)), limit_bytes_(limit_bytes), ask_(ask) {}

Ring::~Ring() {
  if (header_ != nullptr) munmap(header_, limit_bytes_);
}

std::unique_ptr<Ring> Ring::create(const std::string& folder, std::size_t limit_bytes, double ticks_per_second,
                                   const char* prefix, Ask ask) {
  std::string path = free_path(folder, prefix);
  if (path.empty()) return nullptr;
  std::unique_ptr<Ring> ring(new Ring(std::move(path), limit_bytes, ask));
  if (!ring->map()) return nullptr;
  ring->fill_header(ticks_per_second);
  if (!ring->grow() || !ring->take_room()) return nullptr;
  ring->stop_ = ring->room_;
  fault_in(ring->rows_, ring->rows_ + ring->stop_);
  ring->ask_ahead();
  return ring;
}

// All of the room at once: pages behind the end of the file cost nothing until the file reaches them.
bool Ring::map() {
  const File file(path_, O_RDWR);
  if (file < 0 || !extend(file, 0, header_bytes)) return false;
  void* memory = MAP_FAILED;
  for (;; limit_bytes_ /= 2) {
    memory = mmap(nullptr, limit_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED) break;
    if (limit_bytes_ < 2 * least_mapped) return false;
  }
  header_ = static_cast<Header*>(memory);
  rows_ = reinterpret_cast<Row*>(static_cast<char*>(memory) + header_bytes);
  return true;
}

void Ring::fill_header(double ticks_per_second) {
  header_->version = ring_version;
  header_->row_bytes = sizeof(Row);
  header_->process = getpid();
  header_->thread = thread_number();
  pthread_getname_np(pthread_self(), header_->name, sizeof header_->name);
  header_->ticks_per_second = ticks_per_second;
  // A thousandth of a second first; twice as long each time that the list is full.
  anchor_interval_ = static_cast<std::uint64_t>(ticks_per_second / 1000);
  note_anchor();
  std::atomic_signal_fence(std::memory_order_seq_cst);
  std::memcpy(header_->magic, ring_magic, sizeof ring_magic);
}

void Ring::rename(std::string_view name) {
  char padded[sizeof header_->name] = {};
  std::memcpy(padded, name.data(), std::min(name.size(), sizeof padded - 1));
  std::memcpy(header_->name, padded, sizeof padded);
}

bool Ring::grow() {
  const std::size_t from = file_bytes_;
  const std::size_t more = ask_ == nullptr ? chunk_bytes : std::clamp(from, chunk_bytes, most_ahead);
  const std::size_t target = std::min({limit_bytes_, from + more, most_file_bytes()});
  if (target < from + sizeof(Row)) return false;
  const File file(path_, O_RDWR);
  if (file < 0 || !extend(file, from, target)) return false;
  file_bytes_ = target;
  return true;
}

// What the file has grown by since the last time.
bool Ring::take_room() {
  const std::uint64_t room = (file_bytes_ - header_bytes) / sizeof(Row);
  if (room <= room_) return false;
  room_ = room;
  __atomic_store_n(&header_->room, room_, __ATOMIC_RELAXED);
  return true;
}

void Ring::extend_ahead() {
  if (!wants_more_.exchange(false) || cut_at_ != 0) return;
  if (!grow()) is_full_ = true;
  // Closed meanwhile: cut once more.
  const std::size_t end = cut_at_;
  if (end != 0 && truncate(path_.c_str(), static_cast<off_t>(end)) != 0) return;  // then it is only longer
}

void Ring::ask_ahead() {
  if (ask_ == nullptr || is_full_ || wants_more_.exchange(true)) return;
  ask_();
}

// All slots are used: more of them, or over the oldest rows. False while another thread is about to make more. Once it
// turned, the file stays as it is, because slots behind the newest row hold the oldest ones.
bool Ring::find_room() {
  const bool has_turned = written_ > room_;
  if (!has_turned && take_room()) return true;
  if (!has_turned && ask_ != nullptr && !is_full_) {
    wants_more_ = true;
    if (ask_()) return false;
    ask_ = nullptr;
  }
  if (!has_turned && ask_ == nullptr && grow() && take_room()) return true;
  slot_ = 0;
  return true;
}

// The slots that are mapped ahead are used up. False when there is no room for a row, which is dropped.
bool Ring::turn() {
  if (slot_ == room_ && !find_room()) {
    ++header_->dropped;
    return false;
  }
  note_anchor();
  release();
  stop_ = std::min(room_, slot_ + chunk_rows);
  fault_in(rows_ + slot_, rows_ + stop_);
  if (stop_ == room_ && written_ <= room_) ask_ahead();
  return true;
}

// The last chunk but one, whose ranges have mostly ended: the file keeps what is in it. One that ends later brings its
// page back.
void Ring::release() {
  if (slot_ < chunk_rows) return;
  Row* const to = rows_ + (slot_ - chunk_rows);
  advise(rows_ + (slot_ < 2 * chunk_rows ? 0 : slot_ - 2 * chunk_rows), to, MADV_DONTNEED);
}

void Ring::note_anchor() {
  std::uint32_t count = header_->anchors;
  if (count == most_anchors) {
    // Every second one stays. An anchor counts while its ns is not 0, so that no torn one is ever read.
    for (std::uint32_t kept = 1; kept < most_anchors / 2; ++kept) {
      header_->anchor[kept].ns = 0;
      std::atomic_signal_fence(std::memory_order_seq_cst);
      header_->anchor[kept].ticks = header_->anchor[2 * kept].ticks;
      std::atomic_signal_fence(std::memory_order_seq_cst);
      header_->anchor[kept].ns = header_->anchor[2 * kept].ns;
    }
    count = most_anchors / 2;
    anchor_interval_ *= 2;
  }
  const Anchor now = anchor();
  header_->anchor[count] = now;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  header_->anchors = count + 1;
  next_anchor_ = now.ticks + anchor_interval_;
}

void Ring::close(bool by_owner) {
  header_->closing = anchor();
  const std::uint64_t written = __atomic_load_n(&header_->written, __ATOMIC_RELAXED);
  const std::uint64_t rows = std::min(written, __atomic_load_n(&header_->room, __ATOMIC_RELAXED));
  const std::size_t used = header_bytes + rows * sizeof(Row) + (by_owner ? 0 : slack_bytes);
  cut_at_ = used;
  if (used < file_bytes_ && truncate(path_.c_str(), static_cast<off_t>(used)) != 0) return;  // then it is only longer
}

bool end_row_in_file(const std::string& path, Place place, std::uint64_t end) {
  const File file(path, O_RDWR);
  Header header{};
  if (place.slot == no_slot || file < 0 || pread(file, &header, sizeof header, 0) != static_cast<ssize_t>(sizeof header)) return false;
  if (header.written - place.number > header.room) return false;
  const std::size_t at = header_bytes + place.slot * sizeof(Row) + offsetof(Row, end);
  return pwrite(file, &end, sizeof end, static_cast<off_t>(at)) == static_cast<ssize_t>(sizeof end);
}

}  // namespace tetrace::ranges
