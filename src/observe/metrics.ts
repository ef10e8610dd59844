/** The figures of a snapshot in the text formats of Prometheus and OpenMetrics. docs/observe.md lists the metrics. */
import { reading } from '../arguments.ts';
import { DmaArgumentError } from '../errors.ts';
import type { DeviceSnapshot, PoolSnapshot, Snapshot, SourceSnapshot, WaitHistogram } from './format.ts';

/** `prometheus`: text format 0.0.4. `openmetrics`: OpenMetrics 1.0. */
export type MetricsFormat = 'prometheus' | 'openmetrics';

type Labels = Readonly<Record<string, string | number>>;

interface Family<T> {
  readonly name: string;
  readonly type: 'gauge' | 'counter';
  readonly unit?: 'bytes' | 'blocks';
  readonly help: string;
  readonly value: (of: T) => number | null;
}

const POOL_FAMILIES: readonly Family<PoolSnapshot>[] = [
  gauge('active_blocks', 'Allocated blocks.', ({ active }) => active, 'blocks'),
  gauge('capacity_blocks', 'Blocks in all pages.', ({ blocks }) => blocks, 'blocks'),
  gauge('limit_blocks', 'Limit of allocated blocks; absent without a limit.', (p) => p.maxBlocks, 'blocks'),
  gauge('high_water_blocks', 'Highest number of allocated blocks so far.', ({ highWater }) => highWater, 'blocks'),
  gauge('block_size_bytes', 'Bytes of a block.', ({ blockSize }) => blockSize, 'bytes'),
  gauge('pages', 'Pages held from the memory source.', ({ pages }) => pages),
  gauge('memory_bytes', 'Bytes of all pages.', ({ pages, pageBytes }) => pages * pageBytes, 'bytes'),
  gauge('quarantined_blocks', 'Blocks in quarantine.', ({ quarantined }) => quarantined, 'blocks'),
  gauge('in_transit_blocks', 'Blocks in transit between workers.', ({ inTransit }) => inTransit, 'blocks'),
  gauge('waiting_calls', 'Calls of allocWait that are waiting.', ({ waiting }) => waiting),
  counter('allocations', 'Allocations.', ({ allocations }) => allocations),
  counter('frees', 'Frees.', ({ frees }) => frees),
  counter('failures', 'Allocations that failed.', ({ failures }) => failures),
  counter('corruptions', 'Free blocks that were written to (debug mode).', ({ corrupted }) => corrupted),
  counter('waits', 'Calls of allocWait that had to wait.', ({ waits }) => waits),
];

const SOURCE_FAMILIES: readonly Family<SourceSnapshot>[] = [
  gauge('source_committed_bytes', 'Bytes taken from the system.', ({ committed }) => committed, 'bytes'),
  gauge('source_in_use_bytes', 'Bytes allocated to devices.', ({ inUse }) => inUse, 'bytes'),
  gauge('source_limit_bytes', 'Limit of the memory source in bytes.', ({ limit }) => limit, 'bytes'),
  gauge('source_mappings', 'Mappings in an IOMMU.', ({ mappings }) => mappings),
  counter('source_faults', 'Device accesses that the IOMMU blocked.', ({ faults }) => faults),
];

const DEVICE_FAMILIES: readonly Family<DeviceSnapshot>[] = [
  gauge('device_memory_bytes', 'Bytes of coherent memory allocated for the device.', ({ bytes }) => bytes, 'bytes'),
];

const WORKER_FAMILIES: readonly Family<PoolSnapshot['workers'][number]>[] = [
  gauge('worker_held_blocks', 'Blocks that the worker has allocated.', ({ held }) => held, 'blocks'),
  gauge('worker_cached_blocks', 'Free blocks in the magazine of the worker.', ({ cached }) => cached, 'blocks'),
];

function gauge<T>(name: string, help: string, value: Family<T>['value'], unit?: Family<T>['unit']): Family<T> {
  return { name, type: 'gauge', help, value, ...(unit === undefined ? {} : { unit }) };
}

function counter<T>(name: string, help: string, value: Family<T>['value']): Family<T> {
  return { name, type: 'counter', help, value };
}

/** Content type of each format. */
export const METRICS_TYPE: Readonly<Record<MetricsFormat, string>> = {
  prometheus: 'text/plain; version=0.0.4; charset=utf-8',
  openmetrics: 'application/openmetrics-text; version=1.0.0; charset=utf-8',
};

/**
 * The figures of a snapshot as metrics.
 *
 * @param seen The result of `snapshot()`.
 * @param format The text format.
 * @throws `DmaArgumentError` for an invalid argument.
 *
 * @example
 * ```ts
 * DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048 }).alloc();
 * console.log(metricsText(snapshot()).includes('dmapool_active_blocks'));
 * ```
 */
export function metricsText(seen: Snapshot, format: MetricsFormat = 'prometheus'): string {
  if (!Object.keys(METRICS_TYPE).includes(format)) {
    throw new DmaArgumentError('format', format, Object.keys(METRICS_TYPE).join(' or '));
  }
  return reading('seen', seen, 'a snapshot', () => textOf(seen, format));
}

function textOf(seen: Snapshot, format: MetricsFormat): string {
  const lines: string[] = [];
  const pools = seen.devices.flatMap((device) =>
    device.pools.map((pool) => ({ pool, labels: poolLabels(device, pool) })),
  );
  const write = <T>(
    families: readonly Family<T>[],
    all: readonly { readonly of: T; readonly labels: Labels }[],
  ): void => {
    for (const family of families) writeFamily(lines, format, family, all);
  };
  write(
    POOL_FAMILIES,
    pools.map(({ pool, labels }) => ({ of: pool, labels })),
  );
  writeWaits(lines, pools);
  write(
    WORKER_FAMILIES,
    pools.flatMap(({ pool, labels }) =>
      pool.workers.map((of) => ({ of, labels: { ...labels, worker: of.worker, thread: of.thread } })),
    ),
  );
  write(
    DEVICE_FAMILIES,
    seen.devices.map((of) => ({ of, labels: { device: of.path, id: `${of.thread}.${of.id}` } })),
  );
  write(
    SOURCE_FAMILIES,
    seen.sources.map((of) => ({ of, labels: { source: of.name, id: `${of.thread}.${of.id}` } })),
  );
  if (format === 'openmetrics') lines.push('# EOF');
  return `${lines.join('\n')}\n`;
}

/** Includes the pool's number, because names need not be unique. */
function poolLabels({ path, thread }: DeviceSnapshot, { id, name }: PoolSnapshot): Labels {
  return { device: path, pool: name, id: `${thread}.${id}` };
}

function writeFamily<T>(
  lines: string[],
  format: MetricsFormat,
  { name, type, unit, help, value }: Family<T>,
  all: readonly { readonly of: T; readonly labels: Labels }[],
): void {
  const sample = `dmapool_${name}${type === 'counter' ? '_total' : ''}`;
  // In OpenMetrics the name of a family has no suffix.
  const family = format === 'openmetrics' ? `dmapool_${name}` : sample;
  const samples = all.flatMap(({ of, labels }) => {
    const found = value(of);
    return found === null ? [] : [`${sample}${labelText(labels)} ${found}`];
  });
  if (samples.length === 0) return;
  lines.push(`# HELP ${family} ${help}`, `# TYPE ${family} ${type}`);
  if (unit !== undefined && format === 'openmetrics') lines.push(`# UNIT ${family} ${unit}`);
  lines.push(...samples);
}

function writeWaits(lines: string[], pools: readonly { readonly pool: PoolSnapshot; readonly labels: Labels }[]): void {
  if (pools.length === 0) return;
  const name = 'dmapool_wait_seconds';
  lines.push(`# HELP ${name} Durations of ended waits of allocWait.`, `# TYPE ${name} histogram`);
  for (const { pool, labels } of pools) lines.push(...histogram(name, labels, pool.waitTimes));
}

function histogram(name: string, labels: Labels, { bounds, counts, sum }: WaitHistogram): string[] {
  let below = 0;
  const buckets = counts.map((count, i) => {
    below += count;
    const bound = bounds[i];
    const le = bound === undefined ? '+Inf' : String(bound / 1000);
    return `${name}_bucket${labelText({ ...labels, le })} ${below}`;
  });
  return [...buckets, `${name}_sum${labelText(labels)} ${sum / 1000}`, `${name}_count${labelText(labels)} ${below}`];
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(String(value))}"`);
  return `{${pairs.join(',')}}`;
}

function escaped(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}
