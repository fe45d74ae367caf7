# Retrieval, everything trained.
mmft train name=peer paths.runs="$OUT/model" seed="$SEED" trainer.max_epochs="$EPOCHS" task=contrastive \
    data.train="$ROWS/train.csv" data.val="$ROWS/val.csv" \
    data.columns.image=image data.columns.text=title data.columns.id=id \
    model.image_encoder.name="$IMAGE_ENCODER" model.image_encoder.image_size=112 \
    model.text_encoder.name="$TEXT_ENCODER" model.text_encoder.max_length=32 \
    report=false modality_report=false
mmft embed run=last paths.runs="$OUT/model" data.path="$ROWS/test.csv" out="$OUT/embeddings.npz"
