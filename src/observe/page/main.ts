/** The page of `dmapool web`: tabs of devices, a table of pools, and the map, charts and holders of one pool. */
import {
  BLOCK_STATE,
  type BlockSnapshot,
  type DeviceSnapshot,
  type Holder,
  type PoolSnapshot,
  type Snapshot,
} from '../format.ts';
import { Chart, text } from './chart.ts';
import { BlockMap, colourOf, type MapBlocks } from './map.ts';

/** Milliseconds between two snapshots. */
const INTERVAL = 1000;
/** Milliseconds that the pointer rests on a block before the page requests its details. */
const REST = 50;
/** Limit of lines in the list of events. */
const EVENTS_KEPT = 200;

function byId(id: string): HTMLElement {
  return document.getElementById(id)!;
}

/** Creates an element with text. Texts of the program are never parsed as HTML. */
function element<K extends keyof HTMLElementTagNameMap>(
  name: K,
  content = '',
  attributes: Readonly<Record<string, string>> = {},
): HTMLElementTagNameMap[K] {
  const made = document.createElement(name);
  made.textContent = content;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Runs `action` and ignores errors: the next snapshot repeats it. */
function attempt(action: () => Promise<void>): void {
  action().catch(() => undefined);
}

const nameOf = ({ thread }: DeviceSnapshot, { id }: PoolSnapshot): string => `${String(thread)}.${String(id)}`;
const keyOf = ({ thread, id }: DeviceSnapshot): string => `${String(thread)}.${String(id)}`;
const bytes = (value: number): string =>
  value < 1024
    ? `${text(value)} B`
    : value < 1024 ** 2
      ? `${text(value / 1024)} KiB`
      : `${text(value / 1024 ** 2)} MiB`;

class Page {
  #latest: Snapshot | null = null;
  #before: Snapshot | null = null;
  #device = '';
  #pool = '';
  #blocks: MapBlocks = { states: new Uint8Array(0), pages: [], blocksPerPage: 1 };
  #fetching = false;
  #request = 0;
  readonly #map = new BlockMap(byId('map') as HTMLCanvasElement, (at) => {
    attempt(() => this.#describeBlock(at));
  });
  readonly #charts = {
    active: new Chart(byId('chart-active'), 'active blocks'),
    rate: new Chart(byId('chart-rate'), 'allocations a second'),
    waits: new Chart(byId('chart-waits'), 'calls waiting'),
  };
  readonly #status = byId('status');

  start(): void {
    const dark = matchMedia('(prefers-color-scheme: dark)');
    const setTheme = (): void => {
      const chosen = document.documentElement.dataset['theme'];
      const isDark = chosen === undefined ? dark.matches : chosen === 'dark';
      this.#map.setDark(isDark);
      for (const chart of Object.values(this.#charts)) chart.draw();
      this.#drawLegend(isDark);
    };
    dark.addEventListener('change', setTheme);
    byId('theme').addEventListener('click', () => {
      const { dataset } = document.documentElement;
      const isDark = dataset['theme'] === undefined ? dark.matches : dataset['theme'] === 'dark';
      dataset['theme'] = isDark ? 'light' : 'dark';
      setTheme();
    });
    setTheme();
    byId('tabs').addEventListener('keydown', (event) => {
      const step = event.key === 'ArrowRight' ? 1 : event.key === 'ArrowLeft' ? -1 : 0;
      if (step !== 0) this.#stepTab(step);
    });
    const source = new EventSource(`events?interval=${String(INTERVAL)}`);
    source.addEventListener('snapshot', ({ data }: MessageEvent<string>) => {
      this.#show(JSON.parse(data) as Snapshot);
    });
    source.addEventListener('error', () => {
      this.#setStatus('The process does not answer.');
    });
    for (const name of ['exhausted', 'corrupted', 'leak', 'worker-exit'] as const) {
      source.addEventListener(name, ({ data }: MessageEvent<string>) => {
        this.#addEvent(name, JSON.parse(data) as EventData);
      });
    }
  }

  /** Number of frames of the map, for tests. */
  get frames(): number {
    return this.#map.frames;
  }

  #setStatus(message: string): void {
    // A screen reader reads a live region at each change.
    if (this.#status.textContent !== message) this.#status.textContent = message;
  }

  #show(seen: Snapshot): void {
    this.#before = this.#latest;
    this.#latest = seen;
    const { process, devices } = seen;
    document.title = `dmapool: ${process.title}`;
    byId('process').textContent = `${process.title} (${String(process.pid)}), Node ${process.node}`;
    this.#setStatus('Live.');
    if (!devices.some((device) => keyOf(device) === this.#device)) {
      const [first] = devices.filter(({ pools }) => pools.length > 0);
      this.#device = first === undefined ? '' : keyOf(first);
    }
    this.#drawTabs(devices);
    this.#drawDevice();
  }

  // ---- devices

  #drawTabs(devices: readonly DeviceSnapshot[]): void {
    const tabs = byId('tabs');
    const names = devices.map((device) => `${keyOf(device)} ${device.name}`).join('\n');
    if (tabs.dataset['names'] !== names) {
      tabs.dataset['names'] = names;
      tabs.replaceChildren(
        ...devices.map((device) => {
          const tab = element('button', device.name, {
            role: 'tab',
            id: `tab-${keyOf(device)}`,
            'aria-controls': 'panel',
          });
          tab.dataset['device'] = keyOf(device);
          tab.title = device.path;
          tab.addEventListener('click', () => {
            this.#chooseDevice(keyOf(device));
          });
          return tab;
        }),
      );
    }
    for (const tab of tabs.querySelectorAll<HTMLElement>('[role=tab]')) {
      const isChosen = tab.dataset['device'] === this.#device;
      tab.setAttribute('aria-selected', String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      if (isChosen) byId('panel').setAttribute('aria-labelledby', tab.id);
    }
  }

  #stepTab(step: number): void {
    const keys = (this.#latest?.devices ?? []).map(keyOf);
    const next = keys[(keys.indexOf(this.#device) + step + keys.length) % keys.length];
    if (next === undefined) return;
    this.#chooseDevice(next);
    byId(`tab-${next}`).focus();
  }

  #chooseDevice(key: string): void {
    this.#device = key;
    this.#pool = '';
    this.#drawTabs(this.#latest?.devices ?? []);
    this.#drawDevice();
  }

  #drawDevice(): void {
    const device = this.#latest?.devices.find((each) => keyOf(each) === this.#device);
    byId('empty').hidden = device !== undefined;
    byId('panel').hidden = device === undefined;
    if (device === undefined) return;
    const source = this.#latest?.sources.find(({ id, thread }) => id === device.source && thread === device.thread);
    const limit = source?.limit ?? null;
    byId('device').textContent =
      `${device.path}: mask 0x${device.dmaMask.toString(16)}, ` +
      `${device.numaNode < 0 ? 'no NUMA node' : `NUMA node ${String(device.numaNode)}`}, ${bytes(device.bytes)} of ${source?.name ?? '?'} memory` +
      (limit === null ? '' : `, which has ${bytes(source?.inUse ?? 0)} of ${bytes(limit)} in use`);
    if (!device.pools.some((pool) => nameOf(device, pool) === this.#pool)) {
      const [first] = device.pools;
      this.#choosePool(first === undefined ? '' : nameOf(device, first));
    }
    this.#drawPools(device);
    const pool = device.pools.find((each) => nameOf(device, each) === this.#pool);
    byId('pool').hidden = pool === undefined;
    if (pool !== undefined) this.#drawPool(pool);
  }

  // ---- pools

  #choosePool(name: string): void {
    if (this.#pool === name) return;
    this.#pool = name;
    for (const chart of Object.values(this.#charts)) chart.clear();
    this.#map.select(-1);
  }

  #rateOf(pool: PoolSnapshot, figure: 'allocations' | 'failures'): number | null {
    const device = this.#before?.devices.find((each) => keyOf(each) === this.#device);
    const old = device?.pools.find(({ id }) => id === pool.id);
    const seconds = ((this.#latest?.time ?? 0) - (this.#before?.time ?? 0)) / 1000;
    return old === undefined || seconds <= 0 ? null : Math.max(0, (pool[figure] - old[figure]) / seconds);
  }

  #drawPools(device: DeviceSnapshot): void {
    const body = byId('pools');
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset['pool'] : undefined;
    body.replaceChildren(
      ...device.pools.map((pool) => {
        const name = nameOf(device, pool);
        const row = element('tr');
        const head = element('th', '', { scope: 'row' });
        const button = element('button', pool.name, { 'aria-pressed': String(name === this.#pool) });
        button.dataset['pool'] = name;
        button.addEventListener('click', () => {
          this.#choosePool(name);
          this.#drawDevice();
        });
        head.append(button);
        const rate = this.#rateOf(pool, 'allocations');
        const cells = [
          text(pool.blockSize),
          text(pool.active),
          text(pool.blocks),
          text(pool.highWater),
          pool.maxBlocks === null ? '-' : text(pool.maxBlocks),
          bytes(pool.pages * pool.pageBytes),
          rate === null ? '-' : text(rate),
          text(pool.failures),
          text(pool.waiting),
          text(pool.corrupted),
        ];
        row.append(head, ...cells.map((cell) => element('td', cell)));
        return row;
      }),
    );
    if (focused !== undefined) {
      body.querySelector<HTMLElement>(`[data-pool="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    }
  }

  #drawPool(pool: PoolSnapshot): void {
    const time = this.#latest?.time ?? 0;
    const facts = [
      `${text(pool.blocksPerPage)} blocks of ${text(pool.blockSize)} bytes in a page of ${text(pool.pageBytes)}`,
      pool.align > 1 ? `aligned to ${text(pool.align)}` : '',
      pool.boundary > 0 ? `crossing no boundary of ${text(pool.boundary)}` : '',
      pool.debug ? 'debug mode' : '',
      pool.shared === null ? '' : 'shared',
      pool.state === 'destroyed' ? 'destroyed' : '',
    ];
    byId('pool-name').textContent = pool.name;
    byId('facts').textContent = facts.filter((fact) => fact !== '').join(', ');
    this.#charts.active.add(time, pool.active);
    const rate = this.#rateOf(pool, 'allocations');
    if (rate !== null) this.#charts.rate.add(time, rate);
    this.#charts.waits.add(time, pool.waiting);
    byId('workers').replaceChildren(
      ...pool.workers.map(({ worker, thread, state, held, cached, inTransit, allocations }) => {
        const row = element('tr');
        row.append(
          element('th', pool.shared === null ? 'this thread' : String(worker), { scope: 'row' }),
          ...[String(thread), state, text(held), text(cached), text(inTransit), text(allocations)].map((cell) =>
            element('td', cell),
          ),
        );
        return row;
      }),
    );
    attempt(() => this.#fetchBlocks());
  }

  async #fetchBlocks(): Promise<void> {
    if (this.#fetching) return;
    this.#fetching = true;
    const name = this.#pool;
    try {
      const [seen, holders] = await Promise.all([
        getJson<Snapshot>(`snapshot?blocks=${name}`),
        getJson<Holder[]>(`pools/${name}/holders`),
      ]);
      if (this.#pool !== name) return;
      const pools = seen.devices.flatMap((device) =>
        device.pools.map((pool) => ({ pool, name: nameOf(device, pool) })),
      );
      const found = pools.find((each) => each.name === name)?.pool;
      if (found?.map === undefined || found.map === null) return;
      this.#blocks = decodeMap(found);
      this.#map.show(this.#blocks);
      this.#drawCounts(this.#blocks.states);
      this.#drawHolders(holders);
    } finally {
      this.#fetching = false;
    }
  }

  #drawCounts(states: Uint8Array): void {
    const counts = new Uint32Array(256);
    for (const byte of states) counts[byte]!++;
    const sum = (from: number, to: number): number => counts.subarray(from, to).reduce((a, b) => a + b, 0);
    const at = (state: number): number => state << 6;
    const { allocated, transit, unusable } = BLOCK_STATE;
    const parts: readonly (readonly [string, number])[] = [
      ['free', counts[0]!],
      ['magazines', sum(1, 64)],
      ['allocated', sum(at(allocated), at(allocated) + 64)],
      ['transit', sum(at(transit), at(transit) + 64)],
      ['quarantined', counts[at(unusable)]!],
      ['beyond', counts[at(unusable) + 1]!],
    ];
    for (const [name, value] of parts) byId(`count-${name}`).textContent = text(value);
    byId('map').setAttribute(
      'aria-label',
      `Map of ${text(states.length)} blocks: ${parts.map(([name, value]) => `${text(value)} ${name}`).join(', ')}. Arrow keys move between blocks.`,
    );
  }

  #drawLegend(dark: boolean): void {
    for (const swatch of document.querySelectorAll<HTMLElement>('[data-byte]')) {
      swatch.style.background = `rgb(${colourOf(Number(swatch.dataset['byte']), dark).join(' ')})`;
    }
  }

  #drawHolders(holders: readonly Holder[]): void {
    byId('holders').replaceChildren(
      ...holders.map(({ worker, site, count, oldest }) => {
        const row = element('tr');
        row.append(
          element('th', site ?? 'unknown (requires debug: true)', { scope: 'row' }),
          element('td', worker === 0 ? '-' : String(worker)),
          element('td', text(count)),
          element('td', oldest === null ? '-' : `${text(oldest / 1000)} s`),
        );
        return row;
      }),
    );
  }

  // ---- one block

  async #describeBlock(at: number): Promise<void> {
    const line = byId('block');
    const request = ++this.#request;
    if (at < 0) {
      line.textContent = '';
      return;
    }
    // No requests for blocks that the pointer only crosses.
    await new Promise((resolve) => setTimeout(resolve, REST));
    if (request !== this.#request) return;
    const { pages, blocksPerPage } = this.#blocks;
    const index = pages[Math.floor(at / blocksPerPage)]! * blocksPerPage + (at % blocksPerPage);
    const block = await getJson<BlockSnapshot>(`pools/${this.#pool}/blocks/${String(index)}`);
    // The pointer may have moved.
    if (request !== this.#request) return;
    const owner =
      block.worker === 0
        ? ''
        : `, worker ${String(block.worker)}${block.thread === null ? '' : ` (thread ${String(block.thread)})`}`;
    line.textContent =
      `Block ${String(block.index)} at 0x${block.dma.toString(16)}: ${block.state}${owner}` +
      (block.site === null ? '' : `, from ${block.site}`) +
      (block.age === null ? '' : `, ${text(block.age / 1000)} s ago`);
  }

  // ---- events

  #addEvent(name: EventName, data: EventData): void {
    const list = byId('events');
    const when = new Date(data.time).toLocaleTimeString();
    list.prepend(element('li', `${when}  ${data.pool}: ${describeEvent(name, data)}`));
    while (list.children.length > EVENTS_KEPT) list.lastElementChild?.remove();
  }
}

type EventName = 'exhausted' | 'corrupted' | 'leak' | 'worker-exit';

interface EventData {
  readonly time: number;
  readonly pool: string;
  readonly reason?: string;
  readonly index?: number;
  readonly blocks?: number;
  readonly worker?: number;
  readonly out?: readonly number[];
}

function describeEvent(name: EventName, { reason, index, blocks, worker, out }: EventData): string {
  switch (name) {
    case 'exhausted':
      return `no block (${reason ?? '?'})`;
    case 'corrupted':
      return `block ${String(index)} was written to while it was free`;
    case 'leak':
      return `${String(blocks)} blocks were still allocated at its end`;
    case 'worker-exit':
      return `worker ${String(worker)} ended with ${String(out?.length ?? 0)} blocks`;
  }
}

async function getJson<T>(path: string): Promise<T> {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${String(response.status)}`);
  return (await response.json()) as T;
}

function decodeMap({ map, blocksPerPage }: PoolSnapshot): MapBlocks {
  const pages = map ?? [];
  const states = new Uint8Array(pages.length * blocksPerPage);
  for (const [n, { blocks }] of pages.entries()) {
    const binary = atob(blocks);
    const first = n * blocksPerPage;
    for (let i = 0; i < binary.length; i++) states[first + i] = binary.charCodeAt(i);
  }
  return { states, pages: pages.map(({ page }) => page), blocksPerPage };
}

const page = new Page();
page.start();
Object.assign(globalThis, { dmapoolPage: page });
