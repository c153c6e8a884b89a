#include "tools/eval/results.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace pqcache::tools {
namespace {

Json Optional(double value) { return value < 0 ? Json() : Json(value); }

double OptionalFrom(const Json& json, std::string_view key) {
  const Json* member = json.Find(key);
  return member == nullptr || !member->is_number() ? -1 : member->AsDouble();
}

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

// Of values, the one that a share of them does not exceed (nearest rank).
double Quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(share * static_cast<double>(values.size()));
  return values[static_cast<size_t>(std::max(1.0, rank)) - 1];
}

struct Group {
  SampleKey key;
  std::vector<const SampleResult*> results;
};

// Means over the results of what `value` gives for each.
template <typename Value>
double MeanOf(const Group& group, Value value) {
  double sum = 0;
  for (const SampleResult* r : group.results) sum += value(*r);
  return sum / static_cast<double>(group.results.size());
}

void AddScores(const Group& group, Json* row) {
  const SampleResult& first = *group.results.front();
  if (first.turns.empty()) {
    row->Set("score", Json());
    row->Set("ppl", std::exp(MeanOf(group, [](const SampleResult& r) { return r.loss; })));
    return;
  }
  std::vector<std::pair<double, double>> by_turn;  // sum, count
  double sum = 0, count = 0;
  std::vector<std::pair<std::string, std::pair<double, double>>> metrics;
  for (const SampleResult* r : group.results) {
    by_turn.resize(std::max(by_turn.size(), r->turns.size()));
    for (size_t turn = 0; turn < r->turns.size(); ++turn) {
      const auto& scores = r->turns[turn].scores;
      sum += scores.front().second;
      count += 1;
      by_turn[turn].first += scores.front().second;
      by_turn[turn].second += 1;
      for (const auto& [name, score] : scores) {
        auto metric = std::find_if(metrics.begin(), metrics.end(),
                                   [&, n = name](const auto& m) { return m.first == n; });
        if (metric == metrics.end()) metric = metrics.insert(metric, {name, {0, 0}});
        metric->second.first += score;
        metric->second.second += 1;
      }
    }
  }
  row->Set("score", sum / count).Set("ppl", Json());
  Json means;
  for (const auto& [name, total] : metrics) means.Set(name, total.first / total.second);
  row->Set("metrics", std::move(means));
  if (by_turn.size() < 2) return;
  Json turns = Json::Array();
  for (const auto& [score, n] : by_turn) turns.Push(score / n);
  row->Set("score_by_turn", std::move(turns));
}

void AddTimes(const Group& group, Json* row) {
  std::vector<double> gaps;
  bool prompt = false;
  for (const SampleResult* r : group.results) {
    gaps.insert(gaps.end(), r->gaps_ms.begin(), r->gaps_ms.end());
    prompt = prompt || r->first_ms > 0;
  }
  // Null where nothing was decoded: exact perplexity comes from the prefill.
  const auto first = [](const SampleResult& r) { return r.prefill_ms + r.first_ms; };
  row->Set("ttft_ms", prompt ? Json(MeanOf(group, first)) : Json());
  row->Set("tpot_ms", gaps.empty() ? Json() : Json(Mean(gaps)));
  Json itl;
  if (!gaps.empty()) {
    itl.Set("median", Quantile(gaps, 0.5)).Set("p99", Quantile(gaps, 0.99));
  }
  row->Set("itl_ms", std::move(itl));
  row->Set("tokens_per_second", gaps.empty() ? Json() : Json(1000 / Mean(gaps)));
}

void Accumulate(const SampleResult::Judged& from, double weight, SampleResult::Judged* to) {
  to->recall += weight * from.recall;
  to->mass += weight * from.mass;
  to->output_error += weight * from.output_error;
}

Json JudgedRow(const SampleResult::Judged& j) {
  Json row;
  row.Set("recall", j.recall).Set("mass", j.mass).Set("output_error", j.output_error);
  return row;
}

void AddJudged(const Group& group, Json* row) {
  std::vector<std::vector<SampleResult::Judged>> means;
  double judged = 0;
  for (const SampleResult* r : group.results) judged += r->judged.empty() ? 0 : 1;
  for (const SampleResult* r : group.results) {
    means.resize(std::max(means.size(), r->judged.size()));
    for (size_t l = 0; l < r->judged.size(); ++l) {
      means[l].resize(std::max(means[l].size(), r->judged[l].size()));
      for (size_t h = 0; h < r->judged[l].size(); ++h) {
        Accumulate(r->judged[l][h], 1 / judged, &means[l][h]);
      }
    }
  }
  if (means.empty()) return;
  SampleResult::Judged all;
  Json layers = Json::Array();
  for (const auto& heads : means) {
    SampleResult::Judged layer;
    Json list = Json::Array();
    for (const SampleResult::Judged& head : heads) {
      Accumulate(head, 1 / static_cast<double>(heads.size()), &layer);
      list.Push(JudgedRow(head));
    }
    Accumulate(layer, 1 / static_cast<double>(means.size()), &all);
    Json entry = JudgedRow(layer);
    layers.Push(std::move(entry.Set("heads", std::move(list))));
  }
  row->Set("recall", all.recall).Set("mass", all.mass).Set("output_error", all.output_error);
  row->Set("layers", std::move(layers));
}

}  // namespace

std::vector<std::vector<SampleResult::Judged>> JudgedHeads(const attention::AttentionStats& stats) {
  std::vector<std::vector<SampleResult::Judged>> judged;
  if (stats.Total().shadow_steps == 0) return judged;
  for (int l = 0; l < stats.layers; ++l) {
    auto& heads = judged.emplace_back();
    for (int h = 0; h < stats.kv_heads; ++h) {
      const attention::HeadStats& s =
          stats.heads[static_cast<size_t>(l) * static_cast<size_t>(stats.kv_heads) +
                      static_cast<size_t>(h)];
      const double n = std::max(1.0, static_cast<double>(s.shadow_steps));
      heads.push_back({s.recall / n, s.mass / n, s.output_error / n});
    }
  }
  return judged;
}

Json SampleResult::ToJson() const {
  Json j;
  j.Set("task", key.task).Set("ctx", key.ctx).Set("depth", Optional(key.depth));
  j.Set("sample", key.sample).Set("policy", key.policy).Set("budget", Optional(key.budget));
  j.Set("sample_depth", Optional(sample_depth));
  Json list = Json::Array();
  for (const SampleTurn& turn : turns) {
    Json scores;
    for (const auto& [name, score] : turn.scores) scores.Set(name, score);
    Json t;
    t.Set("answer", turn.answer).Set("predicted", turn.predicted);
    t.Set("stopped", turn.stopped);
    list.Push(std::move(t.Set("scores", std::move(scores))));
  }
  j.Set("turns", std::move(list)).Set("loss", loss).Set("truncated", truncated);
  j.Set("prefill_ms", prefill_ms).Set("first_ms", first_ms);
  Json gaps = Json::Array();
  for (const double gap : gaps_ms) gaps.Push(gap);
  j.Set("gaps_ms", std::move(gaps)).Set("resident_bytes", resident_bytes);
  j.Set("flops_per_token", flops_per_token).Set("attended", attended).Set("context", context);
  if (!judged.empty()) {
    Json layers = Json::Array();
    for (const auto& heads : judged) {
      Json layer = Json::Array();
      for (const Judged& h : heads) {
        layer.Push(Json(Json::Array{h.recall, h.mass, h.output_error}));
      }
      layers.Push(std::move(layer));
    }
    j.Set("judged", std::move(layers));
  }
  if (!source.is_null()) j.Set("source", source);
  return j;
}

Result<SampleResult> SampleResult::FromJson(const Json& j) {
  SampleResult r;
  PQCACHE_ASSIGN_OR_RETURN(r.key.task, j.GetString("task"));
  PQCACHE_ASSIGN_OR_RETURN(r.key.ctx, j.GetInt("ctx"));
  PQCACHE_ASSIGN_OR_RETURN(r.key.sample, j.GetInt("sample"));
  PQCACHE_ASSIGN_OR_RETURN(r.key.policy, j.GetString("policy"));
  r.key.depth = OptionalFrom(j, "depth");
  r.key.budget = OptionalFrom(j, "budget");
  r.sample_depth = OptionalFrom(j, "sample_depth");
  const Json* turns = j.Find("turns");
  if (turns == nullptr || !turns->is_array()) {
    return Status::InvalidArgument("'turns' is absent, expected an array");
  }
  for (const Json& turn : turns->AsArray()) {
    SampleTurn t;
    PQCACHE_ASSIGN_OR_RETURN(t.answer, turn.GetString("answer"));
    PQCACHE_ASSIGN_OR_RETURN(t.predicted, turn.GetString("predicted"));
    PQCACHE_ASSIGN_OR_RETURN(t.stopped, turn.GetBool("stopped"));
    const Json* scores = turn.Find("scores");
    if (scores == nullptr || !scores->is_object() || scores->AsObject().empty()) {
      return Status::InvalidArgument("'scores' is absent, expected an object of numbers");
    }
    for (const auto& [name, score] : scores->AsObject()) {
      PQCACHE_ASSIGN_OR_RETURN(const double value, scores->GetDouble(name));
      t.scores.emplace_back(name, value);
    }
    r.turns.push_back(std::move(t));
  }
  PQCACHE_ASSIGN_OR_RETURN(r.loss, j.GetDouble("loss"));
  PQCACHE_ASSIGN_OR_RETURN(r.truncated, j.GetBool("truncated"));
  PQCACHE_ASSIGN_OR_RETURN(r.prefill_ms, j.GetDouble("prefill_ms"));
  PQCACHE_ASSIGN_OR_RETURN(r.first_ms, j.GetDouble("first_ms"));
  PQCACHE_ASSIGN_OR_RETURN(r.resident_bytes, j.GetDouble("resident_bytes"));
  PQCACHE_ASSIGN_OR_RETURN(r.flops_per_token, j.GetDouble("flops_per_token"));
  PQCACHE_ASSIGN_OR_RETURN(r.attended, j.GetDouble("attended"));
  PQCACHE_ASSIGN_OR_RETURN(r.context, j.GetDouble("context"));
  const auto numbers = [](const Json* list) {
    std::vector<double> values;
    if (list == nullptr || !list->is_array()) return values;
    for (const Json& value : list->AsArray()) {
      if (value.is_number()) values.push_back(value.AsDouble());
    }
    return values;
  };
  r.gaps_ms = numbers(j.Find("gaps_ms"));
  if (const Json* judged = j.Find("judged"); judged != nullptr && judged->is_array()) {
    for (const Json& layer : judged->AsArray()) {
      auto& heads = r.judged.emplace_back();
      if (!layer.is_array()) return Status::InvalidArgument("'judged' holds no arrays");
      for (const Json& head : layer.AsArray()) {
        const std::vector<double> h = numbers(&head);
        if (h.size() != 3) return Status::InvalidArgument("'judged' holds no three numbers each");
        heads.push_back({h[0], h[1], h[2]});
      }
    }
  }
  if (const Json* source = j.Find("source"); source != nullptr) r.source = *source;
  return r;
}

Json SummariseResults(std::span<const SampleResult> results) {
  std::vector<Group> groups;
  for (const SampleResult& r : results) {
    SampleKey key = r.key;
    key.sample = 0;
    auto group =
        std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return g.key == key; });
    if (group == groups.end()) group = groups.insert(group, {key, {}});
    group->results.push_back(&r);
  }
  Json rows = Json::Array();
  for (const Group& group : groups) {
    Json row;
    row.Set("task", group.key.task).Set("policy", group.key.policy);
    row.Set("budget", Optional(group.key.budget)).Set("ctx", group.key.ctx);
    row.Set("depth", Optional(group.key.depth)).Set("samples", group.results.size());
    AddScores(group, &row);
    AddTimes(group, &row);
    row.Set("kv_bytes_resident",
            MeanOf(group, [](const SampleResult& r) { return r.resident_bytes; }));
    row.Set("flops_per_token",
            MeanOf(group, [](const SampleResult& r) { return r.flops_per_token; }));
    const double context = MeanOf(group, [](const SampleResult& r) { return r.context; });
    const double attended = MeanOf(group, [](const SampleResult& r) { return r.attended; });
    row.Set("selected_ratio", context > 0 ? attended / context : 0.0);
    const double truncated =
        MeanOf(group, [](const SampleResult& r) { return r.truncated ? 1.0 : 0.0; });
    if (truncated > 0) row.Set("truncated", truncated);
    AddJudged(group, &row);
    rows.Push(std::move(row));
  }
  return rows;
}

std::string ResultTable(const Json& rows) {
  const auto number = [](const Json& row, const char* key, const char* format, double scale = 1) {
    const Json* value = row.Find(key);
    if (value == nullptr || !value->is_number()) return std::string("-");
    char text[32];
    std::snprintf(text, sizeof(text), format, scale * value->AsDouble());
    return std::string(text);
  };
  const auto text = [](const Json& row, const char* key) { return row.Find(key)->AsString(); };
  char line[320];
  std::snprintf(line, sizeof(line), "%-13s %-24s %6s %7s %5s %7s %9s %9s %9s %9s %9s\n", "task",
                "policy", "budget", "ctx", "depth", "samples", "score/ppl", "ms/token", "ttft ms",
                "KV MB", "attended");
  std::string table = line;
  for (const Json& row : rows.AsArray()) {
    const bool ppl = row.Find("score")->is_null();
    const std::string depth =
        row.Find("depth")->is_null() ? "all" : number(row, "depth", "%.0f%%", 100);
    std::snprintf(line, sizeof(line), "%-13s %-24s %6s %7s %5s %7s %9s %9s %9s %9s %9s\n",
                  text(row, "task").c_str(), text(row, "policy").c_str(),
                  number(row, "budget", "%.3g%%", 100).c_str(), number(row, "ctx", "%.0f").c_str(),
                  depth.c_str(), number(row, "samples", "%.0f").c_str(),
                  number(row, ppl ? "ppl" : "score", "%.3f").c_str(),
                  number(row, "tpot_ms", "%.2f").c_str(), number(row, "ttft_ms", "%.0f").c_str(),
                  number(row, "kv_bytes_resident", "%.2f", 1e-6).c_str(),
                  number(row, "selected_ratio", "%.2f%%", 100).c_str());
    table += line;
  }
  return table;
}

Json HelmLine(const SampleResult& result) {
  Json choices = Json::Array();
  for (const SampleTurn& turn : result.turns) {
    Json choice;
    choice.Set("text", turn.predicted).Set("finish_reason", turn.stopped ? "stop" : "length");
    choices.Push(std::move(choice));
  }
  double seconds = result.prefill_ms + result.first_ms;
  for (const double gap : result.gaps_ms) seconds += gap;
  Json completion, line;
  completion.Set("choices", std::move(choices)).Set("request_time", seconds / 1000);
  line.Set("request", result.source).Set("result", std::move(completion));
  return line;
}

}  // namespace pqcache::tools
