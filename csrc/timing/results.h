// What was measured: a row for each site and sampled step, and of all rows of a site a summary of fixed size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace tetrace::timing {

// How often a length occurred, in buckets whose width is a 32nd of their power of two: a quantile is off by at most 1.6%.
class Histogram {
 public:
  void add(std::int64_t ns);
  // The smallest length that at least `share` of all are not above, in (0, 1]; 0 where there is none.
  std::int64_t quantile(double share) const;

 private:
  std::vector<std::uint32_t> counts_;
  std::uint64_t total_ = 0;
};

// One site in one sampled step. A row with `skipped` lacks those calls, so its sum is too low.
struct Row {
  std::int32_t site;
  std::int32_t step;
  std::int32_t count;    // calls that were measured
  std::int32_t skipped;  // calls that could not be
  std::int64_t elapsed_ns;
};

// Of the rows of a site without skipped calls.
struct Summary {
  std::int64_t steps = 0;
  std::int64_t count = 0;
  std::int64_t partial_steps = 0;  // rows that are left out, because calls were skipped
  std::int64_t sum_ns = 0;
  std::int64_t min_ns = 0;
  std::int64_t max_ns = 0;
  Histogram histogram;
};

class Results {
 public:
  void clear();
  void begin_step(std::int32_t step);
  // Steps up to this one have ended: their rows are made when nothing of them is pending.
  void end_step(std::int32_t step);

  // An interval was begun; `add`, `skip` or `drop` (as if it had never been) follows.
  void expect(std::int32_t step, std::int32_t site);
  void add(std::int32_t step, std::int32_t site, std::int64_t elapsed_ns);
  void skip(std::int32_t step, std::int32_t site);
  void drop(std::int32_t step, std::int32_t site);
  // A call that was never begun, because it could not be measured.
  void miss(std::int32_t step, std::int32_t site);

  // Makes the rows of steps that are over; with `all`, also of those that still wait for something.
  void settle(bool all);
  // The rows made since they were last taken.
  std::vector<Row> take_rows();
  std::size_t rows_waiting() const;
  std::unordered_map<std::int32_t, Summary> summaries() const;
  std::int64_t rows_dropped() const;

 private:
  struct Totals {
    std::int32_t count = 0;
    std::int32_t skipped = 0;
    std::int32_t pending = 0;
    std::int64_t ns = 0;
  };
  struct Step {
    std::int32_t number = -1;
    std::int64_t pending = 0;
    bool over = false;
    std::unordered_map<std::int32_t, Totals> sites;
  };

  Step* find(std::int32_t step);
  // The totals of a site of which one interval is no longer pending; null when the step's rows are made already.
  Totals* settled(std::int32_t step, std::int32_t site);
  void finish(const Step& step);

  mutable std::mutex mutex_;
  std::deque<Step> steps_;
  std::unordered_map<std::int32_t, Summary> summaries_;
  std::vector<Row> rows_;
  std::int64_t rows_dropped_ = 0;
};

}  // namespace tetrace::timing
