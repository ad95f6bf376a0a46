// The functions of the libcupti that is found when the process runs; nothing links it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "collector/layouts.h"

namespace tetrace::collector {

using Subscriber = void*;
using Callback = void (*)(void* user, std::uint32_t domain, std::uint32_t callback, const void* data);
using BufferRequested = void (*)(std::uint8_t** buffer, std::size_t* bytes, std::size_t* most_records);
using TimestampCallback = std::uint64_t (*)();
using BufferCompleted = void (*)(void* context, std::uint32_t stream, std::uint8_t* buffer, std::size_t bytes,
                                 std::size_t used);

// Name, then parameters. All return a cupti::Result.
#define TETRACE_CUPTI_FUNCTIONS(NEEDED, OPTIONAL)                                                      \
  NEEDED(cuptiGetVersion, std::uint32_t*)                                                              \
  NEEDED(cuptiGetResultString, cupti::Result, const char**)                                            \
  NEEDED(cuptiGetCallbackName, std::uint32_t domain, std::uint32_t callback, const char**)             \
  NEEDED(cuptiSubscribe, Subscriber*, Callback, void* user)                                            \
  NEEDED(cuptiUnsubscribe, Subscriber)                                                                 \
  NEEDED(cuptiEnableCallback, std::uint32_t on, Subscriber, std::uint32_t domain, std::uint32_t callback) \
  NEEDED(cuptiActivityRegisterCallbacks, BufferRequested, BufferCompleted)                             \
  NEEDED(cuptiActivityEnable, cupti::Activity)                                                         \
  NEEDED(cuptiActivityDisable, cupti::Activity)                                                        \
  NEEDED(cuptiActivityFlushAll, std::uint32_t flags)                                                   \
  NEEDED(cuptiActivityGetNextRecord, std::uint8_t* buffer, std::size_t used, std::uint8_t** record)    \
  NEEDED(cuptiActivityGetNumDroppedRecords, void* context, std::uint32_t stream, std::size_t*)         \
  OPTIONAL(cuptiActivityRegisterTimestampCallback, TimestampCallback)                                  \
  OPTIONAL(cuptiActivityFlushPeriod, std::uint32_t milliseconds)                                       \
  OPTIONAL(cuptiActivitySetAttribute, std::uint32_t attribute, std::size_t* bytes, void* value)        \
  OPTIONAL(cuptiActivityGetAttribute, std::uint32_t attribute, std::size_t* bytes, void* value)        \
  OPTIONAL(cuptiSetThreadIdType, std::uint32_t type)                                                   \
  OPTIONAL(cuptiGetGraphNodeId, void* node, std::uint64_t*)                                            \
  OPTIONAL(cuptiGetGraphId, void* graph, std::uint32_t*)                                               \
  OPTIONAL(cuptiGetStreamIdEx, void* context, void* stream, std::uint8_t of_thread, std::uint32_t*)     \
  OPTIONAL(cuptiActivityEnableRuntimeApi, std::uint32_t callback, std::uint8_t on) /* since 12.5 */    \
  OPTIONAL(cuptiActivityEnableDriverApi, std::uint32_t callback, std::uint8_t on)  /* since 12.5 */    \
  OPTIONAL(cuptiSubscribe_v2, Subscriber*, Callback, void* user, cupti::SubscriberParameters*) /* since 13.0 */

struct CuptiApi {
#define TETRACE_MEMBER(name, ...) cupti::Result (*name)(__VA_ARGS__) = nullptr;
  TETRACE_CUPTI_FUNCTIONS(TETRACE_MEMBER, TETRACE_MEMBER)
#undef TETRACE_MEMBER
  std::uint32_t version = 0;
  std::string library;  // its path

  std::string words(cupti::Result result) const;  // CUPTI's own for this result
};

// The libcupti that is in the process already, since a second one would break both; else the first of `candidates` that
// can be loaded, else what the loader finds. On failure `reason` says what was tried and `api.version` is 0.
CuptiApi load_cupti(const std::vector<std::string>& candidates, std::string& reason);

}  // namespace tetrace::collector
