#include "attention/head_step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "attention/exact_proof.h"
#include "attention/sliding_window.h"
#include "pqcache/base/check.h"
#include "pqcache/base/vector_math.h"
#include "pqcache/cache/row_codec.h"

namespace pqcache::attention {
namespace {

struct Scratch {
  std::vector<const uint8_t*> rows;
  std::vector<float> mean, logits, far_rows, bounds;
  std::vector<const uint8_t*> far_pointers;
  std::vector<int64_t> positions;
  PartialAttention single;
};

Scratch& ThreadScratch() {
  thread_local Scratch scratch;
  return scratch;
}

RowFormat MemoryFormat(const HeadCache& head) {
  const PageShape& shape = head.page_shape();
  return {shape.dtype, shape.dim, static_cast<int64_t>(head.memory_row_bytes() / 2)};
}

RowFormat PageFormat(const PageShape& shape) {
  const bool keyless = shape.layout == PageLayout::kValueOnly;
  return {shape.dtype, shape.dim,
          keyless ? 0 : static_cast<int64_t>(DTypeSize(shape.dtype)) * shape.dim};
}

// Of a part of the mass, of which the logarithm is given, as is that of all the rest.
double Share(double part, double rest) { return 1.0 / (1.0 + std::exp(rest - part)); }

}  // namespace

std::vector<float> AtWindowEnd(const Rope& rope, const HeadCache& head, int g,
                               const float* queries) {
  const int dim = head.page_shape().dim;
  std::vector<float> moved(queries, queries + int64_t{g} * dim);
  const int64_t by = head.local_window() - (head.tokens() - 1);
  rope.Apply(1, &by, g, dim, moved.data());
  return moved;
}

void HeadStep::Begin(const HeadStepConfig& config, const HeadCache& head, int n, int g,
                     const float* queries, HeadMemory* memory) {
  const bool in_window = n <= head.tokens() - head.paged_tokens();
  PQCACHE_CHECK(n == 1 || (config.sliding_window == 0 && in_window),
                "tokens of one step lie in the window, the model has no sliding one");
  PQCACHE_CHECK(head.tokens() < int64_t{1} << 32, "positions of 32 bits");
  config_ = config;
  head_ = &head;
  queries_ = queries;
  n_ = n;
  num_queries_ = n * g;
  dim_ = head.page_shape().dim;
  scale_ = 1.0f / std::sqrt(static_cast<float>(dim_));
  kv_head_ = static_cast<int>(head.page_key(0).head);
  visible_ = FirstVisible(head.tokens() - 1, config.sliding_window);
  const bool moved =
      config.selector != nullptr && config.selector->fixed_distance() && head.finite();
  far_queries_ = moved ? AtWindowEnd(*config.rope, head, g, queries) : std::vector<float>();
  state_.Reset(num_queries_, dim_);
  chosen_.Reset(num_queries_, dim_);
  AddAlways();
  const bool by_codes = config.policy->score_source() == ScoreSource::kCodes &&
                        !config.policy->codes_only() && head.finite();
  const bool remembers = by_codes && memory != nullptr;
  correction_ = remembers && config.budget.mass > 0 ? &memory->correction : nullptr;
  norms_ = remembers && config.policy->certify_most() > 0 ? &memory->norms : nullptr;
  PQCACHE_CHECK(norms_ == nullptr || config.per_head, "bounds are of the query of a list");
  choice_.Choose(config, head, queries, scale_, always_lse_, correction_);
  last_ = remembers && config.policy->sticky_nats() ? &memory->selected : nullptr;
  if (last_ != nullptr) {
    // Of the first step nothing is known, nor of the queries of one with another number of tokens.
    if (last_->size() != choice_.lists().size()) last_->assign(choice_.lists().size(), {});
    choice_.AddLast(*last_);
  }
  cursors_.assign(choice_.lists().size(), 0);
  certified_.assign(norms_ == nullptr ? 0 : choice_.lists().size(), false);
  widened_ = false;
  if (correction_ != nullptr) {
    PQCACHE_CHECK(choice_.scored_all(), "a budget of mass by codes scores every candidate");
    sample_.Begin({.queries = num_queries_,
                   .query = queries,
                   .scale = scale_,
                   .format = PageFormat(head.page_shape()),
                   .scores = choice_.scores(0),
                   .candidates = choice_.size(),
                   .lists = choice_.lists(),
                   .always_lse = always_lse_});
  }
  if (choice_.ranked()) {
    ranking_.Begin({.lists = choice_.lists().size(),
                    .g = choice_.per_query() ? 1 : num_queries_,
                    .format = PageFormat(head.page_shape()),
                    .row_bytes = head.page_shape().row_bytes(),
                    .queries = queries,
                    .scale = scale_});
  }
  AddHeld();
  CollectPages();
}

void HeadStep::AddAlways() {
  std::vector<const uint8_t*>& list = ThreadScratch().rows;
  list.clear();
  const auto add = [&](const RowBlock& block) {
    for (int64_t i = std::max<int64_t>(0, visible_ - block.first); i < block.count; ++i) {
      list.push_back(block.rows + static_cast<size_t>(i) * head_->memory_row_bytes());
    }
  };
  if (far_queries_.empty()) {
    add(head_->sinks());
  } else {
    const RowBlock sinks = head_->sinks();
    const int64_t first = std::max(sinks.first, visible_);
    add(sinks);
    AddAtWindowEnd(
        MemoryFormat(*head_), list, [&](size_t i) { return first + static_cast<int64_t>(i); },
        far_queries_.data(), &state_);
    list.clear();
  }
  for (const RowBlock& block : head_->window()) add(block);
  const std::span<const uint8_t* const> rows(list);
  const size_t common = rows.size() - static_cast<size_t>(n_ - 1);
  state_.AddRows(MemoryFormat(*head_), rows.first(common), queries_, scale_);
  for (int i = 1; i < n_; ++i) AddNewest(i, rows.subspan(common, static_cast<size_t>(i)));
  always_lse_.resize(static_cast<size_t>(num_queries_));
  for (int g = 0; g < num_queries_; ++g) always_lse_[static_cast<size_t>(g)] = state_.Lse(g);
}

// Rows that only the later tokens of the step may see, for its token i.
void HeadStep::AddNewest(int i, std::span<const uint8_t* const> rows) {
  const int group = num_queries_ / n_;
  PartialAttention& single = ThreadScratch().single;
  single.Reset(group, dim_);
  single.AddRows(MemoryFormat(*head_), rows, queries_ + int64_t{i} * group * dim_, scale_);
  for (int g = 0; g < group; ++g) state_.Merge(single, g, i * group + g);
}

void HeadStep::AddHeld() {
  const PageShape& shape = head_->page_shape();
  const int64_t held_end = head_->held_pages() * shape.page_tokens;
  if (held_end == 0) return;
  std::vector<const uint8_t*>& rows = ThreadScratch().rows;
  for (size_t list = 0; list < choice_.lists().size(); ++list) {
    const std::vector<int64_t>& tokens = choice_.lists()[list];
    const size_t first = cursors_[list];
    size_t& next = cursors_[list];
    rows.clear();
    int64_t page = 0, page_end = 0;  // of the position before: divisions are slow, long ones more
    for (; next < tokens.size(); ++next) {
      const int64_t position = choice_.begin() + tokens[next];
      if (position >= held_end) break;
      if (position >= page_end) {
        page = static_cast<uint32_t>(position) / static_cast<uint32_t>(shape.page_tokens);
        page_end = (page + 1) * shape.page_tokens;
      }
      const auto in_page = static_cast<size_t>(position - page_end + shape.page_tokens);
      rows.push_back(head_->held_rows(page) + in_page * shape.row_bytes());
    }
    AddSelected(static_cast<int>(list), rows, first);
  }
}

void HeadStep::CollectPages() {
  const int64_t page_tokens = head_->page_shape().page_tokens;
  pages_.clear();
  for (size_t i = 0; i < choice_.lists().size(); ++i) {
    const std::vector<int64_t>& list = choice_.lists()[i];
    for (size_t at = cursors_[i]; at < list.size(); ++at) {
      const int64_t page = (choice_.begin() + list[at]) / page_tokens;
      if (page >= head_->full_pages()) break;
      if (pages_.empty() || pages_.back() != page) pages_.push_back(page);
    }
  }
  if (choice_.lists().size() > 1) {
    std::sort(pages_.begin(), pages_.end());
    pages_.erase(std::unique(pages_.begin(), pages_.end()), pages_.end());
  }
}

void HeadStep::AddPages(std::span<const PageRead> pages) {
  if (pages.empty()) return;
  const PageShape& shape = head_->page_shape();
  std::vector<const uint8_t*>& rows = ThreadScratch().rows;
  for (size_t list = 0; list < choice_.lists().size(); ++list) {
    const std::vector<int64_t>& tokens = choice_.lists()[list];
    const size_t first = cursors_[list];
    size_t& next = cursors_[list];
    rows.clear();
    size_t read = 0;
    for (; next < tokens.size(); ++next) {
      const int64_t position = choice_.begin() + tokens[next];
      const int64_t page = position / shape.page_tokens;
      while (read < pages.size() && pages[read].key.page < page) ++read;
      if (read == pages.size()) break;
      const int64_t in_page = position % shape.page_tokens;
      rows.push_back(PageRows(*pages[read].page) +
                     static_cast<size_t>(in_page) * shape.row_bytes());
    }
    AddSelected(static_cast<int>(list), rows, first, ExactRanking::Rows::kGoAway);
  }
}

void HeadStep::AddSelected(int list, std::span<const uint8_t* const> rows, size_t first,
                           ExactRanking::Rows kind) {
  if (rows.empty()) return;
  const RowFormat format = PageFormat(head_->page_shape());
  if (choice_.ranked()) return ranking_.Add(static_cast<size_t>(list), rows, kind);
  if (correction_ != nullptr) sample_.Add(static_cast<size_t>(list), first, rows);
  PartialAttention* state = &chosen_;
  const float* queries = queries_;
  if (choice_.per_query()) {
    state = &ThreadScratch().single;
    state->Reset(1, dim_);
    queries = queries_ + static_cast<int64_t>(list) * dim_;
  }
  if (choice_.scored() && config_.policy->codes_only()) {
    const int g = choice_.per_query() ? 1 : num_queries_;
    const int64_t count = static_cast<int64_t>(rows.size());
    std::vector<float>& logits = ThreadScratch().logits;
    logits.resize(static_cast<size_t>(g * count));
    for (int i = 0; i < g; ++i) {
      const float* scores = choice_.scores(choice_.per_query() ? list : i);
      for (int64_t r = 0; r < count; ++r) {
        logits[static_cast<size_t>(i * count + r)] =
            scores[choice_.lists()[static_cast<size_t>(list)][first + static_cast<size_t>(r)]];
      }
    }
    state->AddRowsWithLogits(format, rows, logits.data(), count);
  } else {
    AddToState(list, rows, first, queries, state);
  }
  if (choice_.per_query()) chosen_.Merge(*state, 0, list);
}

void HeadStep::AddToState(int list, std::span<const uint8_t* const> rows, size_t first,
                          const float* queries, PartialAttention* state) {
  const RowFormat format = PageFormat(head_->page_shape());
  if (config_.selector != nullptr && config_.selector->adjusts_logits() && head_->finite()) {
    AddAdjusted(list, rows, first, queries, state);
  } else if (!far_queries_.empty()) {
    const std::vector<int64_t>& tokens = choice_.lists()[static_cast<size_t>(list)];
    AddAtWindowEnd(
        format, rows, [&](size_t i) { return choice_.begin() + tokens[first + i]; },
        far_queries_.data() + (queries - queries_), state);
  } else {
    state->AddRows(format, rows, queries, scale_);
  }
}

void HeadStep::AddAdjusted(int list, std::span<const uint8_t* const> rows, size_t first,
                           const float* query, PartialAttention* state) {
  const RowFormat format = PageFormat(head_->page_shape());
  Scratch& scratch = ThreadScratch();
  const auto count = static_cast<int64_t>(rows.size());
  scratch.logits.resize(static_cast<size_t>(count + kRowBlock));
  scratch.positions.clear();
  for (int64_t begin = 0; begin < count; begin += kRowBlock) {
    const RowBlockTask task{format, rows, begin, std::min(kRowBlock, count - begin), 1};
    RowLogits(task, query, scale_, scratch.logits.data() + begin);
  }
  for (int64_t i = 0; i < count; ++i) {
    const size_t place = first + static_cast<size_t>(i);
    scratch.positions.push_back(choice_.begin() +
                                choice_.lists()[static_cast<size_t>(list)][place]);
  }
  config_.selector->AdjustLogits(kv_head_, list, scratch.positions, scratch.logits.data());
  state->AddRowsWithLogits(format, rows, scratch.logits.data(), count);
}

// Rows as if they were not rotated.
void HeadStep::AddAtWindowEnd(const RowFormat& format, std::span<const uint8_t* const> rows,
                              const std::function<int64_t(size_t)>& position, const float* queries,
                              PartialAttention* state) {
  Scratch& scratch = ThreadScratch();
  const auto row_floats = static_cast<size_t>(2 * dim_);
  scratch.far_rows.resize(rows.size() * row_floats);
  scratch.far_pointers.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    float* row = scratch.far_rows.data() + i * row_floats;
    LoadRow(rows[i], dim_, format.dtype, row);
    LoadRow(rows[i] + format.value_offset, dim_, format.dtype, row + dim_);
    const int64_t back = -position(i);
    config_.rope->Apply(1, &back, 1, dim_, row);
    scratch.far_pointers.push_back(reinterpret_cast<const uint8_t*>(row));
  }
  const RowFormat floats{DType::kF32, dim_, static_cast<int64_t>(sizeof(float)) * dim_};
  state->AddRows(floats, scratch.far_pointers, queries, scale_);
}

void HeadStep::AddOpenPage() {
  const RowBlock open = head_->open_page();
  std::vector<const uint8_t*>& rows = ThreadScratch().rows;
  for (size_t list = 0; list < choice_.lists().size(); ++list) {
    const std::vector<int64_t>& tokens = choice_.lists()[list];
    const size_t first = cursors_[list];
    rows.clear();
    for (size_t& next = cursors_[list]; next < tokens.size(); ++next) {
      const int64_t row = choice_.begin() + tokens[next] - open.first;
      rows.push_back(open.rows + static_cast<size_t>(row) * head_->page_shape().row_bytes());
    }
    AddSelected(static_cast<int>(list), rows, first);
  }
}

// There is a choice to make, and it is to be proven.
bool HeadStep::ToProve() const {
  return norms_ != nullptr && choice_.tokens() > 0 && choice_.tokens() < choice_.size();
}

// What else may be among the best of the list's query, as much of it as may be read.
void HeadStep::FindDoubtfulOf(size_t list, std::vector<int64_t>* doubtful) {
  const std::vector<int64_t>& found = choice_.lists()[list];
  std::vector<float>& bounds = ThreadScratch().bounds;
  bounds.resize(static_cast<size_t>(choice_.size()));
  norms_->Bounds(*head_->codes(), queries_ + static_cast<int64_t>(list) * dim_, scale_,
                 choice_.begin(), choice_.end(), choice_.scores(static_cast<int>(list)),
                 bounds.data());
  for (const int64_t t : found) {
    bounds[static_cast<size_t>(t)] = -std::numeric_limits<float>::infinity();
  }
  ranking_.ArrangeLogits(list);
  const int64_t most = choice_.tokens() * config_.policy->certify_most();
  FindDoubtful(bounds, ranking_.logits(list), choice_.tokens(), most - std::ssize(found), doubtful,
               &doubts_[list]);
}

void HeadStep::Widen() {
  pages_.clear();
  if (!ToProve()) return;
  AddOpenPage();
  widened_ = true;
  doubts_.resize(choice_.lists().size());
  std::vector<int64_t> doubtful;
  for (size_t list = 0; list < choice_.lists().size(); ++list) {
    FindDoubtfulOf(list, &doubtful);
    std::vector<int64_t>& found = choice_.lists()[list];
    found.insert(found.end(), doubtful.begin(), doubtful.end());
  }
  AddHeld();
  CollectPages();
}

// Whether the best that were found are the best of all.
void HeadStep::Prove(size_t list, HeadStats* stats) {
  PQCACHE_CHECK(widened_, "Widen before Finish");
  const int64_t k = choice_.tokens();
  const int64_t proven = CountProven(doubts_[list], ranking_.logits(list), k);
  certified_[list] = proven == k;
  ++stats->proofs;
  stats->certified += proven == k ? 1 : 0;
  stats->proven += static_cast<double>(proven) / static_cast<double>(k);
}

// bonus [C] of the list's candidates for having been selected by the last step.
void HeadStep::FindBonus(size_t list, std::vector<float>* bonus) const {
  bonus->clear();
  if (last_ == nullptr) return;
  const float nats = *config_.policy->sticky_nats();
  const std::vector<int64_t>& last = (*last_)[list];
  for (const int64_t t : choice_.lists()[list]) {
    const bool selected = std::binary_search(last.begin(), last.end(), choice_.begin() + t);
    bonus->push_back(selected ? nats : 0);
  }
}

// For the next step; of several tokens that select for themselves, what the newest selected.
void HeadStep::LeaveSelected() {
  const size_t lists = choice_.lists().size() / (choice_.per_query() ? static_cast<size_t>(n_) : 1);
  last_->assign(choice_.lists().end() - static_cast<int64_t>(lists), choice_.lists().end());
  for (std::vector<int64_t>& list : *last_) {
    for (int64_t& t : list) t += choice_.begin();
  }
}

// Of the candidates that were found, by their keys. The others count with their exact logits for
// what is estimated of the rest.
void HeadStep::KeepBest(HeadStats* stats) {
  const int64_t n = choice_.size();
  const bool per_query = choice_.per_query();
  PartialAttention& single = ThreadScratch().single;
  std::vector<float>& left = ThreadScratch().logits;
  std::vector<float> rest_lse(per_query ? 1 : static_cast<size_t>(num_queries_));
  std::vector<int64_t> found;
  std::vector<float> bonus;
  for (size_t list = 0; list < choice_.lists().size(); ++list) {
    found = choice_.lists()[list];
    ranking_.ArrangeLogits(list);
    stats->ranked +=
        static_cast<double>(found.size()) / static_cast<double>(choice_.lists().size());
    if (ToProve()) Prove(list, stats);
    const int first = per_query ? static_cast<int>(list) : 0;  // its first query
    for (size_t i = 0; i < rest_lse.size(); ++i) {
      const int query = first + static_cast<int>(i);
      if (!choice_.scored_all()) {
        rest_lse[i] = choice_.unselected_lse(query);
        continue;
      }
      float* scores = choice_.scores(query);
      for (const int64_t t : found) scores[t] = -std::numeric_limits<float>::infinity();
      rest_lse[i] = static_cast<float>(LogSumExp(scores, n)) + choice_.nats(query);
    }
    if (per_query) single.Reset(1, dim_);
    FindBonus(list, &bonus);
    ranking_.Keep(list, *config_.policy, choice_.tokens(), rest_lse.data(), bonus,
                  &choice_.lists()[list], per_query ? &single : &chosen_);
    // Those that widening added stand behind the others.
    if (ToProve()) std::sort(choice_.lists()[list].begin(), choice_.lists()[list].end());
    if (per_query) chosen_.Merge(single, 0, first);
    for (size_t i = 0; i < rest_lse.size(); ++i) {
      const int query = first + static_cast<int>(i);
      const float* exact = ranking_.logits(list).data() + i * found.size();
      if (choice_.scored_all()) {
        float* scores = choice_.scores(query);
        // AddScoredTail adds nats to all of them.
        for (size_t c = 0; c < found.size(); ++c) scores[found[c]] = exact[c] - choice_.nats(query);
        continue;
      }
      left.assign(exact, exact + found.size());
      for (const int64_t kept : ranking_.kept(list)) {
        left[static_cast<size_t>(kept)] = -std::numeric_limits<float>::infinity();
      }
      choice_.unselected_lse(query) =
          static_cast<float>(LogAddExp(rest_lse[i], LogSumExp(left.data(), std::ssize(left))));
    }
  }
}

void HeadStep::AddTail(HeadStats* stats) {
  std::vector<float>& mean = ThreadScratch().mean;
  mean.resize(static_cast<size_t>(dim_));
  const bool estimate = config_.tail == TailMode::kEstimate;
  if (estimate && !choice_.scored_all()) head_->MeanValue(mean.data());
  for (int g = 0; g < num_queries_; ++g) {
    if (choice_.scored_all()) {
      AddScoredTail(g, stats);
      continue;
    }
    const float left = choice_.unselected_lse(g);
    stats->missed_mass += Share(left, state_.Lse(g));
    if (estimate) state_.AddValue(g, AddLikeChosen(g, left), mean.data());
  }
}

// A part of the tail, whose weight is exp(log_weight), with the values of the chosen tokens.
// Returns the log of the weight that is left to the tail's own mean values.
float HeadStep::AddLikeChosen(int g, float log_weight) {
  const float chosen = chosen_.Lse(g);
  if (std::isinf(chosen) || std::isinf(log_weight)) return log_weight;
  state_.Merge(chosen_, g, g, log_weight + std::log(kTailLikeChosen) - chosen);
  return log_weight + std::log1p(-kTailLikeChosen);
}

// Every block of values with the mass of its tokens.
void HeadStep::AddScoredTail(int g, HeadStats* stats) {
  const int64_t begin = choice_.begin(), end = choice_.end();
  float* weights = choice_.scores(g);
  for (int64_t t : selected(g)) weights[t] = -std::numeric_limits<float>::infinity();
  const float max = MaxOf(weights, choice_.size());
  if (std::isinf(max)) return;  // nothing is left over
  const float sum = ExpInPlace(weights, choice_.size(), max);
  float nats = choice_.nats(g);  // and what this step has learnt since
  if (correction_ != nullptr) nats = correction_->nats(g % correction_->group(), nats);
  // The weights are of exp(score - max).
  const float left = max + nats + std::log(sum);
  stats->missed_mass += Share(left, state_.Lse(g));
  if (config_.tail == TailMode::kDrop) return;
  const float log_share = AddLikeChosen(g, left) - std::log(sum);
  std::vector<float>& mean = ThreadScratch().mean;
  for (int64_t t = begin; t < end;) {
    const int64_t block = t / kValueBlockTokens;
    const int64_t stop = std::min(end, (block + 1) * kValueBlockTokens);
    const float weight = std::accumulate(weights + (t - begin), weights + (stop - begin), 0.0f);
    const float share = 1.0f / static_cast<float>(head_->value_count(block));
    for (int d = 0; d < dim_; ++d)
      mean[static_cast<size_t>(d)] = share * head_->value_sum(block)[d];
    if (weight > 0) state_.AddValue(g, log_share + std::log(weight), mean.data());
    t = stop;
  }
}

void HeadStep::Finish(float* out, HeadStats* stats) {
  AddOpenPage();
  if (choice_.ranked()) KeepBest(stats);
  if (last_ != nullptr) LeaveSelected();
  Record(stats);
  if (correction_ != nullptr) sample_.Finish(correction_);
  for (int g = 0; g < num_queries_; ++g) state_.Merge(chosen_, g, g);
  if (choice_.scored()) AddTail(stats);
  state_.Finish(out);
}

void HeadStep::Record(HeadStats* stats) const {
  ++stats->steps;
  stats->context += static_cast<double>(head_->tokens());
  double chosen = 0;
  for (const auto& list : choice_.lists()) chosen += static_cast<double>(list.size());
  chosen /= static_cast<double>(choice_.lists().size());
  const double candidates = static_cast<double>(choice_.size());
  stats->always +=
      static_cast<double>(head_->tokens() - std::max(visible_, head_->paged_tokens())) +
      static_cast<double>(std::max<int64_t>(0, head_->sink_tokens() - visible_));
  stats->selected += chosen;
  if (!choice_.scored()) return;
  stats->scored += candidates;
  stats->mass_steps += num_queries_;
  if (config_.tail == TailMode::kEstimate) stats->estimated += candidates - chosen;
}

}  // namespace pqcache::attention
