#include "kineto/bind.h"

#include "common/columns.h"
#include "common/interpreter.h"
#include "kineto/scanner.h"

namespace py = pybind11;
using namespace py::literals;

namespace tetrace::kineto {
namespace {

// Names are bytes: nothing makes a file's strings UTF-8.
py::list texts(const std::vector<std::string>& words) {
  py::list list;
  for (const std::string& word : words) list.append(py::bytes(word));
  return list;
}

py::dict columns(Table&& table) {
  py::dict columns;
  for (TableColumn& column : table.columns) {
    const auto array = [](auto& values) -> py::array { return to_numpy(std::move(values)); };
    columns[column.name] = std::visit(array, column.values);
  }
  return columns;
}

py::dict tables(Recording& recording) {
  py::dict tables;
  for (int i = 0; i < category_count; ++i) {
    Table& table = recording.tables()[i];
    const py::list words = texts(table.names.words());
    tables[name_of(static_cast<Category>(i))] = py::make_tuple(columns(std::move(table)), words);
  }
  return tables;
}

py::dict finish(Scanner& scanner) {
  {
    const InterpreterRelease unlocked;
    scanner.finish();
  }
  Recording& recording = scanner.recording();
  py::list threads;
  for (const Thread& thread : recording.threads()) threads.append(py::make_tuple(thread.pid, thread.tid));
  py::list namings;
  for (const Naming& naming : recording.namings()) {
    namings.append(py::make_tuple(naming.of_thread, naming.pid, naming.tid, py::bytes(naming.name)));
  }
  py::dict facts;
  for (const auto& [key, text] : scanner.facts()) facts[key.c_str()] = py::bytes(text);
  const Omissions& omissions = recording.omissions();
  return py::dict("tables"_a = tables(recording), "threads"_a = threads, "namings"_a = namings,
                  "text_ids"_a = texts(recording.text_ids()), "facts"_a = facts, "events"_a = scanner.events(),
                  "has_events_list"_a = scanner.has_events_list(), "is_unclosed"_a = scanner.is_unclosed(),
                  "malformed"_a = omissions.malformed, "untimed"_a = omissions.untimed,
                  "unended"_a = omissions.unended);
}

void feed(Scanner& scanner, const py::buffer& piece) {
  const py::buffer_info info = piece.request();
  const std::string_view text(static_cast<const char*>(info.ptr), static_cast<std::size_t>(info.size * info.itemsize));
  const InterpreterRelease unlocked;
  scanner.feed(text);
}

}  // namespace

void bind(py::module_& module) {
  py::class_<Scanner>(module, "KinetoScanner")
      .def(py::init<>())
      .def("feed", &feed, "piece"_a)
      .def("finish", &finish);
}

}  // namespace tetrace::kineto
