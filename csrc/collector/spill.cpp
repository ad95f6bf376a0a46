#include "collector/spill.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "collector/window.h"

namespace tetrace::collector {
namespace {

class File {
 public:
  // No file stays open between writes: a script may close every descriptor that it does not know, and another file would
  // then get ours.
  File(const std::string& path, int flags) : descriptor_(open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~File() {
    const int error = errno;
    if (descriptor_ >= 0) close(descriptor_);
    errno = error;
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  operator int() const { return descriptor_; }

 private:
  int descriptor_;
};

struct Start {
  FileHeader header;
  FrameHeader frame;
  EventRow loss;
};
static_assert(sizeof(Start) == sizeof(FileHeader) + sizeof(FrameHeader) + sizeof(EventRow));

bool write_at(int file, const void* bytes, std::size_t count, std::uint64_t offset) {
  const ssize_t wrote = pwrite(file, bytes, count, static_cast<off_t>(offset));
  if (wrote == static_cast<ssize_t>(count)) return true;
  if (wrote >= 0) errno = ENOSPC;
  return false;
}

}  // namespace

bool Spill::write_header(int file) {
  Start start{};
  std::memcpy(start.header.magic, file_magic, sizeof file_magic);
  start.header.version = file_version;
  start.header.cupti = cupti_;
  start.header.process = getpid();
  start.frame = {frame_magic, static_cast<std::uint16_t>(Kind::event), sizeof(EventRow), 1, sizeof(EventRow)};
  start.loss = loss_;
  if (!write_at(file, &start, sizeof start, 0)) return false;
  end_ = sizeof start;
  return true;
}

bool Spill::create() {
  if (folder_.empty()) folder_ = process_folder();
  if (folder_.empty()) return false;
  std::string path = folder_ + "/cupti.bin";
  const File file(path, O_WRONLY | O_CREAT | O_EXCL);
  if (file < 0) return false;
  if (write_header(file)) return path_ = std::move(path), true;
  // Nothing of it may stay: the next attempt makes it anew.
  const int error = errno;
  unlink(path.c_str());
  errno = error;
  return false;
}

bool Spill::write(Kind kind, std::size_t row_bytes, std::size_t rows, const void* payload, std::size_t payload_bytes) {
  if (torn_) return errno = EIO, false;
  if (path_.empty() && !create()) return false;
  const File file(path_, O_WRONLY);
  if (file < 0) return false;
  static const char zeros[8] = {};
  FrameHeader header{frame_magic, static_cast<std::uint16_t>(kind), static_cast<std::uint16_t>(row_bytes),
                     static_cast<std::uint32_t>(rows), static_cast<std::uint32_t>(payload_bytes)};
  const std::size_t padding = (8 - payload_bytes % 8) % 8;
  const iovec parts[] = {{&header, sizeof header},
                         {const_cast<void*>(payload), payload_bytes},
                         {const_cast<char*>(zeros), padding}};
  const std::size_t whole = sizeof header + payload_bytes + padding;
  const ssize_t wrote = pwritev(file, parts, padding == 0 ? 2 : 3, static_cast<off_t>(end_));
  if (wrote == static_cast<ssize_t>(whole)) {
    end_ += whole;
    return true;
  }
  const int error = wrote < 0 ? errno : ENOSPC;
  if (wrote > 0 && ftruncate(file, static_cast<off_t>(end_)) != 0) torn_ = true;
  errno = error;
  return false;
}

bool Spill::note_loss(const EventRow& loss) {
  loss_ = loss;
  if (path_.empty()) return false;
  const File file(path_, O_WRONLY);
  return file >= 0 && write_at(file, &loss, sizeof loss, offsetof(Start, loss));
}

void Spill::set_cupti(std::uint32_t version) {
  cupti_ = version;
  if (path_.empty()) return;
  const File file(path_, O_WRONLY);
  if (file >= 0) write_at(file, &version, sizeof version, offsetof(FileHeader, cupti));
}

}  // namespace tetrace::collector
