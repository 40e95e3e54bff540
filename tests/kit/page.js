// What the browser tests ask a page of JupyterLab: one object, put into the page before it loads.
// Knobs are numbered in page order; "around" is the output area that holds the knob.
window.minidiff = (() => {
  const handle = '.noUi-handle, .ui-slider-handle';       // of ipywidgets 8, and of 7, which Google Colab has
  const knobs = '.widget-slider .noUi-handle, .widget-slider .ui-slider-handle, .widget-dropdown select, .widget-select select, .widget-toggle-buttons, ' +
    '.widget-radio-box, .widget-button:not(.widget-play *, .widget-toggle-buttons *), ' +
    '.widget-toggle-button:not(.widget-toggle-buttons *), .widget-checkbox input, .widget-text input, ' +
    '.widget-play button:first-child';
  const session = () => window.jupyterapp.shell.currentWidget.sessionContext.session;
  const reports = [], popups = [], pending = new Set();    // pending: requests that the kernel, or one of its subshells, works on
  const asks = '.jp-Dialog-content, .Toastify__toast';   // what JupyterLab puts before a reader's eyes unasked
  new MutationObserver(changes => changes.forEach(change => change.addedNodes.forEach(node => {
    if (node.nodeType === 1)
      for (const found of [...(node.matches(asks) ? [node] : []), ...node.querySelectorAll(asks)]) popups.push(found.textContent);
  }))).observe(document, { childList: true, subtree: true });
  return {
    reports,
    popups,
    idle: () => session()?.kernel?.status === 'idle',
    listen: () => {
      const kernel = session().kernel;
      kernel.anyMessage.connect((_, { msg, direction }) => {
        const of = msg.parent_header?.msg_id;
        if (direction === 'send' && msg.channel === 'shell') pending.add(msg.header.msg_id);
        if (msg.header.msg_type === 'status' && msg.content.execution_state === 'idle') pending.delete(of);
        if (msg.header.msg_type === 'error') reports.push(`${msg.content.ename}: ${msg.content.evalue}`);
      });
      kernel.statusChanged.connect((_, status) => { if (/restarting|dead/.test(status)) pending.clear(); });
    },
    counts: () => window.jupyterapp.shell.currentWidget.content.widgets
      .filter(c => c.model.type === 'code' && c.model.sharedModel.getSource().trim()).map(c => c.model.executionCount),
    knobs: () => [...document.querySelectorAll(knobs)].filter(k => k.offsetParent !== null && !k.disabled),
    value: k => {                                          // what a reader sees the knob stand at
      const box = k.closest('.jupyter-widgets'), on = box.querySelector('.mod-active, label:has(input:checked)');
      return k.matches(handle) ? box.querySelector('.widget-readout').textContent :
        k.tagName === 'SELECT' ? k.selectedOptions[0].textContent.replaceAll('\u00a0', ' ') : k.type === 'checkbox' ? String(k.checked) :
        k.matches('.widget-toggle-button') ? String(k.matches('.mod-active')) : k.tagName === 'INPUT' ? k.value : on ? on.textContent.trim() : '';
    },
    label: k => {                                          // a box to tick has an empty label before its own
      const words = [...k.closest('.jupyter-widgets').querySelectorAll('.widget-label, label span')].map(e => e.textContent);
      return [...words, k.textContent].map(text => text.replace(/\u200b/g, '').trim()).find(text => text) ?? '';
    },
    alt: k => k.closest('.jp-OutputArea-output')?.querySelector('img.minidiff-picture')?.alt ?? '',
    answered: async () => {                                // the kernel is done with all that the page has sent it
      for (let quiet = 0; quiet < 3; quiet = pending.size ? 0 : quiet + 1)         // a widget may hold back what it sends next
        await new Promise(done => setTimeout(done, 150));
    },
    name: k => {
      const box = k.closest('.jupyter-widgets');
      return `${[...(box?.classList ?? [])].find(c => c.startsWith('widget-') && c !== 'widget-inline-hbox') ?? k.tagName} ` +
        `"${(box?.querySelector('.widget-label')?.textContent || k.textContent || '').trim().slice(0, 40)}"`;
    },
    kind: k => k.matches(handle) ? 'slider' : k.tagName === 'SELECT' ? 'select' : k.matches('.widget-play *') ? 'play' :
      k.matches('.widget-toggle-buttons, .widget-radio-box') ? 'choice' : k.tagName === 'INPUT' ? k.type : 'button',
    arm: k => {
      const area = k.closest('.jp-OutputArea') ?? document.body, clock = {};
      for (const e of ['keydown', 'click'])
        area.addEventListener(e, () => { clock.pressed = performance.now(); delete clock.shown; delete clock.said; }, {capture: true});
      area.addEventListener('load', () => { clock.shown ??= performance.now(); }, {capture: true});
      // a sign of life: the button's words, the line of text, or the mark of an old picture; not the knob's own readout
      const speaks = node => (node.nodeType === 1 ? node : node.parentElement)?.closest('.minidiff-action, .minidiff-status, img');
      new MutationObserver(changes => {
        if (clock.pressed && changes.some(change => speaks(change.target))) clock.said ??= performance.now();
      }).observe(area, { subtree: true, childList: true, characterData: true, attributeFilter: ['src', 'class', 'disabled'] });
      window.minidiff.clock = clock;
    },
    spoke: () => {
      const {pressed, said} = window.minidiff.clock;
      return said >= pressed ? (said - pressed) / 1000 : null;
    },
    took: () => {
      const {pressed, shown} = window.minidiff.clock;
      return shown > pressed ? (shown - pressed) / 1000 : null;
    },
    other: k => [...k.querySelectorAll('button, input')].find(b => !b.checked && !b.classList.contains('mod-active')),
    settle: k => {   // an old picture beside a button: draw it anew
      const area = k.closest('.jp-OutputArea') ?? document.body;
      const button = area.querySelector('.widget-button:not([disabled], .widget-play *, .widget-toggle-buttons *)');
      const old = area.querySelector('.minidiff-stale') !== null && button !== null;
      if (old) button.click();
      return old;
    },
    busy: k => (k.closest('.jp-OutputArea') ?? document.body).querySelector('.minidiff-status')?.textContent.trim() === 'drawing',
    fresh: k => (k.closest('.jp-OutputArea') ?? document.body).querySelector('.minidiff-stale') === null,
    around: async k => {
      const area = k.closest('.jp-OutputArea') ?? document.body;
      const pictures = await Promise.all([...area.querySelectorAll('img')].map(async i => {
        const bytes = new Uint8Array(await (await fetch(i.src)).arrayBuffer());
        let hash = 2166136261;
        for (const b of bytes) hash = Math.imul(hash ^ b, 16777619);
        return `${bytes.length}:${hash}:${i.naturalWidth}`;
      }));
      const copy = area.cloneNode(true);
      copy.querySelectorAll('.widget-readout, select, input, button').forEach(e => e.remove());
      return JSON.stringify([pictures, copy.textContent]);
    },
  };
})();
