// The file of frames (rows.h). One thread writes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "collector/rows.h"

namespace tetrace::collector {

class Spill {
 public:
  // FOLDER/cupti.bin, made at the first frame; "" is the folder of this program, which is made then too.
  explicit Spill(std::string folder = "") : folder_(std::move(folder)) {}

  // False when the frame is not in the file; errno says why. What was written of it is cut off again.
  bool write(Kind kind, std::size_t row_bytes, std::size_t rows, const void* payload, std::size_t payload_bytes);

  template <class Row>
  bool write(const Row* rows, std::size_t count) {
    return write(Row::kind, sizeof(Row), count, rows, count * sizeof(Row));
  }

  // Into the place kept for it, now or when the file is made: the total of rows that are missing. It fits on a full disk.
  bool note_loss(const EventRow& loss);

  // What the file's header says of CUPTI.
  void set_cupti(std::uint32_t version);

  std::uint64_t written_bytes() const { return end_; }
  const std::string& path() const { return path_; }

 private:
  bool create();
  bool write_header(int file);

  std::string folder_;
  std::string path_;
  std::uint32_t cupti_ = 0;
  EventRow loss_{0, 0, no_text, 0};
  std::uint64_t end_ = 0;  // of the whole frames
  bool torn_ = false;      // a torn frame could not be cut off: readers stop there
};

}  // namespace tetrace::collector
